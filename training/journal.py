"""What a training tells: a progress bar and a line an epoch for people, metrics.jsonl for programs, provenance.

    tail -f runs/rooms/metrics.jsonl | python -m json.tool --json-lines

With several processes only the first one tells anything.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from training import same_images, same_options
from training.batches import Batches
from training.board import Board
from training.checkpoint import CheckpointMeta
from training.cost import sentence
from training.data import Dataset
from training.description import shown
from training.distributed import Processes
from training.metrics import Scores

REPOSITORY = Path(__file__).resolve().parents[1]


class Journal:
    """The main process writes; the others hold one that stays silent."""

    def __init__(self, out: Path, processes: Processes, *, as_json: bool = False) -> None:
        self.path, self.speaks, self.as_json = out / "metrics.jsonl", processes.is_main, as_json
        self.console = Console(quiet=not self.speaks, stderr=as_json)
        self.board: Board | None = None

    def start(self, meta: CheckpointMeta, epochs: int, *, tensorboard: bool = False) -> None:
        """Keep the lines of the epochs that `meta` says are completed: an interrupted training may have one more."""
        if not self.speaks:
            return
        if tensorboard:
            self.board = Board(self.path.parent, meta)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._lines() if meta.epoch else []
        kept = [line for line in lines if json.loads(line)["epoch"] <= meta.epoch]
        self.path.write_text("".join(kept), encoding="utf-8")
        if meta.epoch == epochs:
            self.console.print(
                f"all epochs (--epochs {epochs}) were made before, nothing is left to train; --pretrained-from "
                f"{self.path.parent / 'model.safetensors'} with another --out trains on",
                highlight=False,
                markup=False,
            )

    def _lines(self) -> list[str]:
        """Of metrics.jsonl, which may be missing; without the one that a kill broke off."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]

    def epoch(self, line: dict[str, object]) -> None:
        """Append one line to metrics.jsonl and say the gist of it."""
        if not self.speaks:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        if self.board:
            self.board.epoch(line)
        if "miou" not in line:
            quality = "not validated"
        elif (miou := line["miou"]) is None:
            quality = "no labelled pixel"
        else:
            quality = f"mIoU {miou:.2%}, pixels {line['allacc']:.2%}"
        self.console.print(
            f"epoch {line['epoch']}: loss {line['loss']:.4f}, {quality}, {line['seconds']:.0f} s",
            highlight=False,
        )

    def end(self) -> None:
        """Say what it cost; with `as_json`, print the line of the last epoch."""
        if not self.speaks:
            return
        if self.board:
            self.board.close()
        if not (lines := self._lines()):
            return  # it was completed before, and the file is lost
        if cost := json.loads(lines[-1]).get("cost"):  # trainings from before costs were counted have none
            self.console.print(sentence(cost), highlight=False)
        if self.as_json:
            print(lines[-1], end="")

    def track(self, batches: Batches, title: str, done: int = 0) -> Iterator[tuple[Tensor, Tensor, Bar]]:
        """Go through `batches`, `done` of which were made before, with a progress bar on the main one's terminal."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(
            *columns, console=self.console, disable=self.console.quiet or not self.console.is_terminal
        ) as progress:
            bar = Bar(progress, title, len(batches) - done, batches.size)
            for images, labels in batches:
                yield images, labels, bar
                bar.step()

    def table(self, classes: tuple[str, ...], scores: Scores) -> None:
        """Print IoU and accuracy of each class."""
        table = Table("class", "IoU", "accuracy", "share of pixels")
        rows = zip(classes, scores.class_iou, scores.class_accuracy, scores.class_share, strict=True)
        for name, *values in rows:
            table.add_row(escape(name), *(f"{value:.1%}" for value in values))
        table.add_section()
        table.add_row("mean", f"{scores.miou:.1%}", f"{scores.macc:.1%}", "")
        self.console.print(table)


class Bar:
    """One pass over the batches, with images per second and whatever the loop wants to show."""

    def __init__(self, progress: Progress, title: str, num_batches: int, batch_size: int) -> None:
        self.progress, self.batch_size, self.steps, self.text = progress, batch_size, 0, ""
        self.started = time.perf_counter()
        self.task = progress.add_task(title, total=num_batches, note="")

    def step(self) -> None:
        """Another batch is done."""
        self.steps += 1
        per_second = self.steps * self.batch_size / (time.perf_counter() - self.started)
        self.progress.update(self.task, advance=1, note=f"{per_second:.1f} images/s {self.text}")


def provenance(
    options: str, datasets: list[Dataset], processes: Processes, dtype: torch.dtype
) -> dict[str, str]:
    """Where a checkpoint comes from: command, options, commit, data, versions, hardware."""
    start = "python" if processes.world_size == 1 else f"torchrun --nproc-per-node {processes.world_size}"
    device = processes.device
    capabilities = torch.cpu.get_capabilities()
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else capabilities.get("cpu_name", "CPU")
    )
    return {
        "command": shown(f"{start} -m training.train {shlex.join(sys.argv[1:])}"),
        "options": options,
        "commit": _commit(),
        "datasets": same_images.listed(datasets),
        same_options.LABEL_VALUES: same_options.label_values(datasets),
        "device": str(name),
        "precision": str(dtype).removeprefix("torch."),
        "processes": str(processes.world_size),
        "torch": torch.__version__,
    }


def _commit() -> str:
    """The checked-out commit; "-dirty" follows where files differ from it."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
