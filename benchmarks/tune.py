"""Find the settings with which this machine serves a .mar best, and write them into it.

    python -m benchmarks.tune model_store/rooms.mar
    python -m benchmarks.tune FILE.mar --dry-run --json tune.json

Workers, threads, batch size and batch delay are tried on servers of their own, on free ports, with photos of 0.3 to 3
megapixels, and every trial's masks are compared with the segmenter's own. Best is: the most images/s with more clients
than fit the batches, among the settings where a lone request takes at most --max-slowdown times as long as with the
quickest. The .mar keeps everything but four settings of its model-config.yaml.

Machines are not as fast at one time as at another. So the engine alone is measured around each trial, and the trial's
figures are given as they would be if the machine had been as fast as at the first one (column `machine`).

Exit code 1: a request failed, or a mask is wrong; the .mar stays as it was.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks import host, json_file, mar_settings
from benchmarks.answers import BATCH_SIZE_HEADER, mean_batch
from benchmarks.client import Load, drive
from benchmarks.mar_server import serving
from benchmarks.mar_settings import Settings
from benchmarks.offline import Offline, offline
from benchmarks.photos import Photo, assorted_photos, photos_of
from benchmarks.served import SEED, failures_of, requests_of, steady_images_per_s, wrong_masks
from benchmarks.tune_search import Trial, search
from segserve import cpu
from segserve.cli import run
from segserve.errors import CheckFailed, UsageError
from segserve.package import check_package


@dataclass(frozen=True)
class Config:
    """Options of the command."""

    mar: tyro.conf.Positional[Path]
    """The .mar to tune."""
    photos: Path | None = None
    """Folder of photos (JPEG, PNG) instead of rendered rooms."""
    max_slowdown: float = 1.25
    """How much longer a lone request may take than with the settings that are quickest for it."""
    budget_s: float = 900.0
    """No trial begins that would probably end after so many seconds."""
    duration_s: float = 8.0
    """Of each measurement; a slow model gets longer, until enough answers are there."""
    dry_run: bool = False
    """Only look: leave the .mar as it is."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to write everything as JSON."""

    def __post_init__(self) -> None:
        mar_settings.require_files(self.mar, self.photos)
        json_file.require_place(self.json)
        if self.max_slowdown < 1:
            raise UsageError(f"--max-slowdown {self.max_slowdown}: expected at least 1")
        if self.budget_s <= 0 or self.duration_s <= 0:
            raise UsageError("--budget-s and --duration-s must be above 0")


class _Measurements:
    """Trials one after the other, as long as the budget lasts."""

    def __init__(self, config: Config, alone: Offline, photos: Sequence[Photo]) -> None:
        self._config, self._alone, self._photos = config, alone, photos
        self._masks = alone.masks([photo.jpeg for photo in photos])
        self._first_speed = 0.0
        self._started, self._longest_s = time.monotonic(), 0.0
        self._console = Console(stderr=True, highlight=False)

    def __call__(self, settings: Settings) -> Trial | None:
        """None where the budget is spent. Raises CheckFailed if an answer is wrong."""
        begin = time.monotonic()
        if self._longest_s and begin - self._started + self._longest_s > self._config.budget_s:
            self._console.print("the budget is spent")
            return None
        with tempfile.TemporaryDirectory(prefix="tune-") as folder:
            trial = self._trial(settings, Path(folder, "server"))
        self._longest_s = max(self._longest_s, time.monotonic() - begin)
        spent_s = time.monotonic() - self._started
        self._console.print(
            f"{spent_s:4.0f} s  {settings.workers} workers x {settings.threads_each()} threads, batch "
            f"{settings.batch_size}, {settings.delay_ms} ms: {trial.images_per_s:.3g} images/s, lone request "
            f"{trial.lone_p50_ms:.0f} ms"
        )
        return trial

    def _trial(self, settings: Settings, work: Path) -> Trial:
        with serving(self._config.mar, settings, work) as server:
            requests = requests_of(server.url, self._photos)
            first = drive(server.url, requests, 2 * settings.workers, 0.0, min_answers=len(requests))
            lone = drive(server.url, requests, 1, self._config.duration_s / 2, min_answers=len(requests))
            before = self._alone.images_per_s(1, self._config.duration_s / 4)
            clients = 2 * settings.workers * settings.batch_size + 2
            full = drive(
                server.url, requests, clients, self._config.duration_s, drain=False, keep_bodies=1,
                min_answers=max(len(requests), 3 * settings.workers * settings.batch_size), answer_timeout_s=3600,
            )  # fmt: skip
            memory = server.memory_mib()
        for load in (first, lone, full):
            self._check(load, settings)
        speed = (before + self._alone.images_per_s(1, self._config.duration_s / 4)) / 2
        self._first_speed = self._first_speed or speed
        machine = speed / self._first_speed
        return Trial(
            settings, machine, steady_images_per_s(full, settings.workers) / machine,
            lone.latency_ms(50) * machine, lone.latency_ms(95) * machine,
            mean_batch(int(answer.headers[BATCH_SIZE_HEADER]) for answer in full.good),
            full.good[0].headers["x-segserve-device"], max(memory["workers"]),
        )  # fmt: skip

    def _check(self, load: Load, settings: Settings) -> None:
        if wrong := failures_of(load) + wrong_masks(load, self._photos, self._masks):
            raise CheckFailed(
                f"with {settings}: {wrong[0]}" + (f" and {len(wrong) - 1} more" * (len(wrong) > 1))
            )


def main(config: Config) -> None:
    """Measure, show, write."""
    spec = check_package(config.mar)
    start = mar_settings.read(config.mar)
    photos = list(assorted_photos(SEED)) if config.photos is None else photos_of(config.photos)
    with (
        tempfile.TemporaryDirectory(prefix="tune-") as folder,
        offline(config.mar, dataclasses.replace(start, workers=1, threads=0), Path(folder)) as alone,
    ):
        cores = cpu.cores()
        trials, chosen = search(start, cores, config.max_slowdown, _Measurements(config, alone, photos))
    report = {
        **host.describe(), "model": f"{spec.name} {spec.version}, {spec.engine}",
        "objective": f"most images/s; a lone request at most {config.max_slowdown} x the shortest of all trials",
        "rows": [_row(trial, chosen) for trial in trials], "chosen": dataclasses.asdict(chosen.settings),
        "written": not config.dry_run,
    }  # fmt: skip
    print(f"## {report['model']}: settings\n\n{host.headline(report)}\n`{report['command']}`\n")
    print(f"Objective: {report['objective']}.\n\n{host.markdown(report['rows'])}\n")
    if config.dry_run:
        print(f"{config.mar} stays as it is (--dry-run)")
    else:
        mar_settings.write(config.mar, config.mar, chosen.settings)
        check_package(config.mar)
        print(f"{config.mar} has these settings now: {chosen.settings}")
    json_file.write(config.json, report)


def _row(trial: Trial, chosen: Trial) -> dict[str, Any]:
    settings = trial.settings
    return {
        "": "best" if trial is chosen else "", "workers": settings.workers, "threads": settings.threads_each(),
        "batchSize": settings.batch_size, "maxBatchDelay ms": settings.delay_ms,
        "machine": trial.machine, "images/s": trial.images_per_s,
        "lone p50 ms": trial.lone_p50_ms, "lone p95 ms": trial.lone_p95_ms, "batch": trial.batch,
        "MiB a worker": trial.worker_mib,
    }  # fmt: skip


if __name__ == "__main__":
    run(Config, main)
