"""A dataset that is painted in milliseconds and learnt in seconds, and the command lines that train on it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.config import TrainConfig

CLASSES = ("wall", "floor", "box")
COLOURS = np.array([[200, 180, 150], [90, 60, 30], [30, 90, 200]], np.float64)


def paint(
    folder: Path, *, train: int = 8, val: int = 3, seed: int = 0, classes: tuple[str, ...] = CLASSES
) -> Path:
    """Write `train` and `val` images (60 x 80) with labels; the top rows are ignored. Returns the description."""
    rng = np.random.default_rng(seed)
    lines = [f'name = "{folder.name}"', f"classes = {json.dumps(classes)}"]
    for split, count in (("train", train), ("val", val)):
        lines += [f"[splits.{split}]", f'images = "{split}/images"', f'labels = "{split}/labels"']
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count):
            label = np.zeros((60, 80), np.uint8)
            label[rng.integers(25, 45) :] = 1
            top, left = rng.integers(5, 35), rng.integers(0, 55)
            label[top : top + 25, left : left + 25] = 2
            image = COLOURS[label] + rng.normal(0, 12, (60, 80, 3))
            label[:3] = 255
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
                folder / split / "images" / f"{number}.png"
            )
            Image.fromarray(label).save(folder / split / "labels" / f"{number}.png")
    description = folder / "dataset.toml"
    description.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return description


def options(description: Path, out: Path, **others: object) -> list[str]:
    """Options of a training of seconds; `others` replaces or adds some (underscores become hyphens)."""
    values: dict[str, object] = {
        "data": description, "out": out, "preset": "pspnet_lite0", "epochs": 2, "batch_size": 4, "crop_height": 33,
        "crop_width": 49, "workers": 0, "precision": "fp32",
    }  # fmt: skip
    found = []
    for name, value in (values | others).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", str(value)]
    return found


def training_command(num_processes: int = 1) -> list[str]:
    """`python -m training.train`, under torchrun (on a port that it chooses) when there are several processes."""
    if num_processes == 1:
        return [sys.executable, "-m", "training.train"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    return [sys.executable, *torchrun, "-m", "training.train"]


def environment() -> dict[str, str]:
    """One thread a process: the same sums in each run, and no spinning where the machine is busy."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::FutureWarning"}


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def config(*data: Path, out: Path, **others: Any) -> TrainConfig:
    """Options of a quick training on `data`."""
    base = TrainConfig(
        data=data, out=out, preset="pspnet_lite0", epochs=2, batch_size=4, crop_height=33, crop_width=49,
        workers=0, precision="fp32",
    )  # fmt: skip
    return replace(base, **others)
