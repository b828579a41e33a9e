"""A real server against its own engine: what of the engine's speed reaches the clients, and where the rest goes.

    python -m benchmarks.served model_store/rooms.mar
    python -m benchmarks.served FILE.mar --photos DIR --concurrency 1 16 256 --json served.json

Photos of 0.3 to 3 megapixels (or yours) are posted by so many clients at a time, each with the next one as soon as it
has its mask, a PNG at the photo's size. Before, between and after, the engine alone is measured: the same file, as
many processes and threads, the fastest batch size; a lone client is set beside one process that has the machine to
itself, as its one request has. Settings are those in the .mar (see benchmarks.tune).

Exit code 1: a request failed, or a mask is not what the segmenter answers without a server.
"""

from __future__ import annotations

import dataclasses
import io
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from benchmarks import host, json_file, mar_settings
from benchmarks.answers import BATCH_SIZE_HEADER, mean_batch
from benchmarks.client import Load, drive, post
from benchmarks.mar_server import MarServer, serving
from benchmarks.mar_settings import Settings
from benchmarks.offline import Offline, offline
from benchmarks.photos import Photo, assorted_photos, photo, photos_of
from segserve.cli import run
from segserve.errors import UsageError
from segserve.package import check_package

STEPS = ("decode", "engine", "mask", "encode")
BATCH_SIZES = (1, 2, 4, 8)
ONE_MEGAPIXEL = (832, 1216)
MIN_AGREEMENT = 0.999
"""Of a mask's pixels. Engines may round otherwise in a batch than alone, so a tie may fall the other way."""
SEED = 7_100_000


@dataclass(frozen=True)
class Config:
    """Options of the command."""

    mar: tyro.conf.Positional[Path]
    """The .mar to serve."""
    photos: Path | None = None
    """Folder of photos (JPEG, PNG) instead of rendered rooms."""
    concurrency: tuple[int, ...] = (1, 4, 16, 64, 256)
    """How many requests are on their way at a time; one row of the table each."""
    duration_s: float = 10.0
    """Of each measurement; a slow model gets longer, until `min_answers` are there."""
    min_answers: int = 24
    """Answers that each row rests on at least."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to write everything as JSON."""

    def __post_init__(self) -> None:
        mar_settings.require_files(self.mar, self.photos)
        json_file.require_place(self.json)
        if not self.concurrency or min(self.concurrency) < 1:
            raise UsageError(f"--concurrency {self.concurrency}: expected numbers from 1")
        if len(set(self.concurrency)) < len(self.concurrency):
            raise UsageError(
                f"--concurrency {self.concurrency}: expected each number once, one row of the table each"
            )
        if self.duration_s <= 0 or self.min_answers < 1:
            raise UsageError("--duration-s must be above 0, --min-answers at least 1")


def main(config: Config) -> int:
    """Measure and report. Exit code as in the module docstring."""
    spec = check_package(config.mar)
    settings = mar_settings.read(config.mar)
    photos = list(assorted_photos(SEED)) if config.photos is None else photos_of(config.photos)
    with (
        tempfile.TemporaryDirectory(prefix="served-") as folder,
        engine_alone(config.mar, settings, Path(folder, "alone")) as (alone, one),
    ):
        masks = alone.masks([photo.jpeg for photo in photos])
        with serving(config.mar, settings, Path(folder, "server")) as server:
            measured = _measure(config, server, settings.workers, alone, one, photos, masks)
        # the last clients hung up, and their requests went with the server
        measured["raw_images_per_s"].append(alone.images_per_s(measured["raw_batch"], config.duration_s / 2))
    for row, around in zip(measured["rows"], pairwise(measured["raw_images_per_s"]), strict=True):
        row["served/raw"] = row["images/s"] / statistics.mean(around)
    report = {
        **host.describe(),
        "model": {"name": spec.name, "preset": spec.preset, "classes": len(spec.classes), "engine": spec.engine,
                  "input": [spec.input.height, spec.input.width]},
        "settings": {**dataclasses.asdict(settings), "threads_each": settings.threads_each()},
        "photos": len(photos), "megapixels": [round(p.height * p.width / 1e6, 2) for p in photos],
        **measured,
    }  # fmt: skip
    print(_markdown(report))
    json_file.write(config.json, report)
    failures: list[str] = report["failures"]
    for failure in failures:
        Console(stderr=True).print(f"failed: {failure}", markup=False)
    return 1 if failures else 0


@contextmanager
def engine_alone(mar: Path, settings: Settings, folder: Path) -> Iterator[tuple[Offline, Offline]]:
    """The engine in as many processes as the server has workers, and in one with a worker's threads.

    Several processes with threads for all cores are slower one by one than each would be without the others.
    """
    one = dataclasses.replace(settings, workers=1, threads=settings.threads_each())
    with (
        offline(mar, settings, folder / "workers") as alone,
        nullcontext(alone) if settings.workers == 1 else offline(mar, one, folder / "one") as lone,
    ):
        yield alone, lone


def _measure(
    config: Config, server: MarServer, workers: int, alone: Offline, one: Offline, photos: Sequence[Photo],
    masks: Sequence[NDArray[np.uint8]],
) -> dict[str, Any]:  # fmt: skip
    with Console(stderr=True).status("the engine alone") as status:
        by_batch = {size: alone.images_per_s(size, config.duration_s / 3) for size in BATCH_SIZES}
        best = max(by_batch, key=lambda size: by_batch[size])
        requests = requests_of(server.url, photos)
        # what is first is slow
        drive(server.url, requests, min(8, len(requests)), 0.0, min_answers=len(requests))
        status.update("one request at a time, 1 megapixel")
        lone = drive(server.url, requests_of(server.url, [photo(SEED, *ONE_MEGAPIXEL)]), 1, config.duration_s / 2,
                     min_answers=8)  # fmt: skip
        lone_row = _lone(lone, alone_ms=1000 / one.images_per_s(1, config.duration_s / 3))
        rows, failures, raw = [], failures_of(lone), [alone.images_per_s(best, config.duration_s / 2)]
        for clients in sorted(config.concurrency):
            status.update(f"{clients} clients")
            load = drive(
                server.url, requests, clients, config.duration_s, min_answers=config.min_answers, keep_bodies=1,
                drain=clients != max(config.concurrency), answer_timeout_s=3600,
            )  # fmt: skip
            failures += failures_of(load) + wrong_masks(load, photos, masks)
            rows.append(row(load, workers))
            if clients != max(config.concurrency):
                raw.append(alone.images_per_s(best, config.duration_s / 2))
    return {
        "raw_by_batch_images_per_s": by_batch, "raw_batch": best, "raw_images_per_s": raw, "rows": rows,
        "lone_1_mp": lone_row, "memory_mib": server.memory_mib(), "failures": failures,
    }  # fmt: skip


def requests_of(url: str, photos: Sequence[Photo]) -> list[bytes]:
    """For masks as PNG."""
    headers = {"Accept": "image/png", "Content-Type": "application/octet-stream"}
    return [post(url, photo.jpeg, headers) for photo in photos]


def failures_of(load: Load) -> list[str]:
    """Every answer that was none."""
    return [f"{load.concurrency} clients: {answer.status} {answer.error}" for answer in load.failed]


def wrong_masks(load: Load, photos: Sequence[Photo], masks: Sequence[NDArray[np.uint8]]) -> list[str]:
    """What differs from the segmenter's own answer, of one answer for each photo that was answered."""
    wrong = []
    for answer in load.answers:
        if answer.body is not None:
            with Image.open(io.BytesIO(answer.body)) as image:
                labels, expected = np.asarray(image), masks[answer.request]
            where = f"{load.concurrency} clients: {photos[answer.request].name}"
            if labels.shape != expected.shape:
                wrong.append(f"{where}: a mask of {labels.shape}, expected {expected.shape}")
            elif (agreement := float((labels == expected).mean())) < MIN_AGREEMENT:
                wrong.append(f"{where}: {agreement:.4%} of the mask is what the segmenter answers by itself")
    return wrong


def row(load: Load, workers: int) -> dict[str, Any]:
    """One line of the table; what it is of the engine's speed is known later."""
    steps = steps_ms(load)
    return {
        "clients": load.concurrency, "answers": len(load.good), "errors": len(load.failed),
        "images/s": steady_images_per_s(load, workers), "served/raw": 0.0,
        "p50 ms": load.latency_ms(50), "p95 ms": load.latency_ms(95), "p99 ms": load.latency_ms(99),
        "batch": mean_batch(int(answer.headers[BATCH_SIZE_HEADER]) for answer in load.good),
        **{f"{step} ms": ms for step, ms in steps.items()},
    }  # fmt: skip


def steady_images_per_s(load: Load, workers: int) -> float:
    """From the end of each worker's first batch to the end of the last: what hundreds of clients send at once to begin
    with is not what they go on to do. Answers of one batch are told by its `total`, which is the same to the us."""
    batches: dict[str, list[float]] = {}
    for answer in load.good:
        batches.setdefault(answer.headers["server-timing"].rpartition("total;")[2], []).append(answer.done_s)
    ends = sorted((max(done), len(done)) for done in batches.values())
    if len(ends) <= workers:
        return load.images_per_s
    return sum(size for _, size in ends[workers:]) / (ends[-1][0] - ends[workers - 1][0])


def steps_ms(load: Load) -> dict[str, float]:
    """Medians of each step as the server tells them; `queue, HTTP`: what the client waited beyond its batch's work."""
    steps: dict[str, list[float]] = {step: [] for step in (*STEPS, "queue, HTTP")}
    for answer in load.good:
        told = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
        for step in STEPS:
            steps[step].append(float(told[step]))
        steps["queue, HTTP"].append(1000 * answer.latency_s - float(told["total"]))
    return {step: statistics.median(values or [0.0]) for step, values in steps.items()}


def _lone(load: Load, alone_ms: float) -> dict[str, float]:
    p50_ms = load.latency_ms(50)
    return {
        "p50 ms": p50_ms, "p95 ms": load.latency_ms(95), "engine alone ms": alone_ms, "p50/engine": p50_ms / alone_ms,
        **{f"{step} ms": ms for step, ms in steps_ms(load).items()},
    }  # fmt: skip


def _markdown(report: dict[str, Any]) -> str:
    model, settings, raw = report["model"], report["settings"], report["raw_images_per_s"]
    by_batch = ", ".join(
        f"{size}: {speed:.3g}" for size, speed in report["raw_by_batch_images_per_s"].items()
    )
    best = max(report["rows"], key=lambda row: row["images/s"])
    return "\n".join([
        f"## {model['name']} ({model['preset']}, {model['classes']} classes, {model['input'][1]}x{model['input'][0]}, "
        f"{model['engine']}) as served",
        "", host.headline(report), f"`{report['command']}`", "",
        f"{settings['workers']} workers x {settings['threads_each']} threads, batches of up to "
        f"{settings['batch_size']}, {settings['delay_ms']} ms; {report['photos']} photos of "
        f"{min(report['megapixels'])} to {max(report['megapixels'])} megapixels; masks as PNG at photo size.",
        f"Engine alone, images/s by batch size: {by_batch}. At {report['raw_batch']}, before, between and after: "
        f"{', '.join(f'{speed:.3g}' for speed in raw)}.",
        f"Best: {best['images/s']:.3g} images/s with {best['clients']} clients, "
        f"{best['served/raw']:.3f} of the engine.",
        "", host.markdown(report["rows"]), "",
        "One client, a photo of 1 megapixel:", "", host.markdown([report["lone_1_mp"]]), "",
        f"Resident memory at the end, MiB: Java {report['memory_mib']['java']}, workers "
        f"{report['memory_mib']['workers']}.",
    ])  # fmt: skip


if __name__ == "__main__":
    run(Config, main)
