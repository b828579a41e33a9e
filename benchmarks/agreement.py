"""Does the load test measure what is there? The same load from two clients, and the server's own histograms beside it.

    python -m benchmarks.agreement model_store/rooms.mar --clients 4 --round-s 12 --rounds 20

Locust (as `benchmarks.run` drives it) and the raw asyncio client (benchmarks/client.py) take turns, A B, B A, …, at one
server: closed load, the same photos, PNG. Printed are the ratios of their percentiles; and of the times in the worker
(`total`) as the answers to Locust told them (Server-Timing) to those that the server counted itself (/metrics): the
exact mean, and percentiles after putting ours into the same buckets. Exit code 1 if a ratio of the clients at p50 or
p95, or that of the means, is off by more than `--tolerance`, if there is none, or if Locust itself was the bottleneck.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import track

from benchmarks import answers, host, loaded, mar_settings
from benchmarks.answers import PERCENTS, Answered, percentiles_ms
from benchmarks.client import drive, percentile
from benchmarks.load_photos import rendered_folder
from benchmarks.photos import MIXED_SIZES, photos_of
from benchmarks.served import SEED, failures_of, requests_of
from benchmarks.session import sleep_while_running
from deploy.metrics import Histogram, scrape
from deploy.run_folder import Running
from segserve.cli import run
from segserve.errors import CheckFailed, UsageError
from segserve.package import check_package
from segserve.spec import ModelSpec

JUDGED = ("p50", "p95", "mean in the worker")
"""p99 of some hundred answers is chance; it is shown."""
DRAWN = 10_000
"""Requests in the raw client's order, more than a turn sends."""


@dataclass(frozen=True)
class AgreementConfig:
    """What is served, and how long both load it."""

    mar: tyro.conf.Positional[Path]
    """Package to serve."""
    clients: int = 4
    """Requests on their way at any time."""
    round_s: float = 12.0
    """Of one client's turn."""
    rounds: int = 20
    """Turns of each client: many short ones, so that both meet the same moods of the machine."""
    tolerance: float = 0.05
    """How far a ratio may be from 1."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        mar_settings.require_files(self.mar, None)
        if min(self.clients, self.rounds) < 1 or min(self.round_s, self.tolerance) <= 0:
            raise UsageError("--clients, --rounds: at least 1; --round-s, --tolerance: above 0")


def main(config: AgreementConfig) -> int:
    """Exit code as above."""
    spec = check_package(config.mar)
    ours, theirs, told, busy = list[Answered](), list[float](), Histogram(), list[str]()
    with tempfile.TemporaryDirectory(prefix="agreement-") as folder:
        work = Path(folder)
        with loaded.server(config.mar, spec.name, work) as running:
            raw_turn(config, running, spec, -1)  # what is first is slow
            for number in track(range(config.rounds), "rounds", console=Console(stderr=True), transient=True):
                for of_locust in (True, False) if number % 2 == 0 else (False, True):
                    if of_locust:
                        file = work / f"{number}.jsonl"
                        rows, counted = locust_turn(config, running, spec, file)
                        ours += rows
                        busy += [f"turn {number + 1}: {line}" for line in loaded.bottlenecks(file)]
                        told = plus(told, counted)
                    else:
                        theirs += raw_turn(config, running, spec, number)
    found = ratios(ours, theirs, told)
    report = {**host.describe(), "answers": {"locust": len(ours), "raw": len(theirs)}, "rows": found}
    print(host.json_of(report) if config.json else f"{host.headline(report)}\n\n{host.markdown(found)}")
    wrong = off(found, config.tolerance) + busy
    for line in wrong:
        Console(stderr=True).print(f"error: {line}", markup=False)
    return 1 if wrong else 0


def locust_turn(
    config: AgreementConfig, running: Running, spec: ModelSpec, file: Path
) -> tuple[list[Answered], Histogram]:
    """Answers to Locust, and what the server counted meanwhile: neither has the quiet requests at Locust's start.

    Up to `clients` answers may be in one and not in the other.
    """
    options = ("--formats", "png=1")
    with loaded.locust(
        running.url, spec.name, len(spec.classes), config.clients, file, options=options
    ) as process:
        before, since = scrape(running.metrics_url).steps(spec.name, spec.version, "total"), time.time()
        sleep_while_running(config.round_s, process)
    rows = [row for row in answers.read(file) if row.done > since]
    if wrong := [row.wrong for row in rows if row.wrong is not None]:
        raise CheckFailed(f"{len(wrong)} answers were wrong, the first: {wrong[0]}")
    return rows, scrape(running.metrics_url).steps(spec.name, spec.version, "total").minus(before)


def raw_turn(config: AgreementConfig, running: Running, spec: ModelSpec, number: int) -> list[float]:
    """Latencies, ms. Raises: CheckFailed if a request failed.

    The photos are drawn by chance, as Locust does: in a fixed order the same ones would always share a batch, which
    is another load.
    """
    photos = photos_of(rendered_folder(MIXED_SIZES))
    requests = requests_of(f"{running.url}/predictions/{spec.name}", photos)
    drawn = random.Random(SEED + number).choices(requests, k=DRAWN)
    load = drive(running.url, drawn, config.clients, config.round_s)
    if failures := failures_of(load):
        raise CheckFailed(f"{len(failures)} requests of the raw client failed, the first: {failures[0]}")
    return [1e3 * answer.latency_s for answer in load.answers]


def ratios(ours: Sequence[Answered], theirs: Sequence[float], told: Histogram) -> list[dict[str, Any]]:
    """Lines of the table. ours: answers to Locust; theirs: latencies, ms; told: the server's times in the worker."""
    locust_ms = percentiles_ms(ours)
    found = []
    for percent in PERCENTS:
        name = f"p{percent}"
        found.append(_row(name, "Locust", locust_ms[name], "raw client", percentile(theirs, percent)))
    worker_ms = [row.server_ms["total"] for row in ours if "total" in row.server_ms]
    where = ("answers to Locust", "server's histogram")
    if worker_ms:
        found.append(
            _row("mean in the worker", where[0], statistics.fmean(worker_ms), where[1], 1e3 * told.mean_s())
        )
    counted = bucketed(worker_ms, [bound_s for bound_s, _ in told.buckets])
    for percent in PERCENTS:
        values = [1e3 * histogram.quantile_s(percent / 100) for histogram in (counted, told)]
        found.append(_row(f"p{percent} in the worker", where[0], values[0], where[1], values[1]))
    return found


def off(rows: Sequence[Mapping[str, Any]], tolerance: float) -> list[str]:
    """A sentence for each of `JUDGED` that is not near 1: one that could not be measured is not, either."""
    ratio_of = {row["what"]: row["ratio"] for row in rows}
    wrong = []
    for what in JUDGED:
        ratio = ratio_of.get(what, math.nan)
        if math.isnan(ratio):
            wrong.append(f"{what}: not measured, one of the two told nothing")
        elif abs(ratio - 1) > tolerance:
            wrong.append(f"{what}: {ratio:.3f} times, expected 1 within {tolerance:g}")
    return wrong


def bucketed(values_ms: Sequence[float], bounds_s: Sequence[float]) -> Histogram:
    """As the server would count them: percentiles of a histogram are to be compared with those of one like it."""
    buckets = tuple((bound_s, float(sum(ms <= 1e3 * bound_s for ms in values_ms))) for bound_s in bounds_s)
    return Histogram(len(values_ms), sum(values_ms) / 1e3, buckets)


def plus(a: Histogram, b: Histogram) -> Histogram:
    """Both counted together."""
    before = dict(a.buckets)
    buckets = tuple((bound_s, count + before.get(bound_s, 0.0)) for bound_s, count in b.buckets)
    return Histogram(a.count + b.count, a.sum_s + b.sum_s, buckets)


def _row(what: str, a_name: str, a_ms: float, b_name: str, b_ms: float) -> dict[str, Any]:
    return {"what": what, "a": a_name, "a ms": a_ms, "b": b_name, "b ms": b_ms, "ratio": a_ms / b_ms}


if __name__ == "__main__":
    run(AgreementConfig, main)
