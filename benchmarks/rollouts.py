"""Many rollouts under load: does a client notice?

    python -m export.build model_store/demo/rooms.safetensors --out build/two --version 2.0     # another version
    python -m benchmarks.rollouts model_store/rooms.mar build/two/rooms.mar --swaps 20 --users 16

Serves the first package on ports of its own, lets Locust (benchmarks/locustfile.py) send photos of 0.3 to 3 megapixels
without a break, judging every mask, and rolls out the second, the first, the second … in turn. Counts answers that
failed or were wrong, answers of a version that was not the default while its request was on its way, and compares the
latency while a rollout was at work with that before and after. Exit code 1 if a request was lost or answered wrongly or
by another version than it may be, if a rollout failed, or if the client was the bottleneck.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import track

from benchmarks import host, loaded, mar_settings
from benchmarks.client import percentile
from deploy.options import REPOSITORY
from segserve.cli import run
from segserve.errors import UsageError
from segserve.package import check_package


@dataclass(frozen=True)
class RolloutsConfig:
    """Which versions, how often, under what load."""

    first: tyro.conf.Positional[Path]
    """Package that is served at the start."""
    second: tyro.conf.Positional[Path]
    """Package of the same model with another version number."""
    swaps: int = 20
    """Rollouts, one after the other."""
    users: int = 16
    """Locust's users, each with one request on its way at any time."""
    quiet_s: float = 60.0
    """Load without a rollout before the first and after the last."""
    watch_s: float = 30.0
    """As of deploy.rollout."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        for mar in (self.first, self.second):
            mar_settings.require_files(mar, None)
        if min(self.swaps, self.users) < 1 or self.quiet_s <= 0:
            raise UsageError("--swaps and --users: at least 1; --quiet-s: more than 0")


def main(config: RolloutsConfig) -> int:
    """Exit code as above."""
    specs = [check_package(path) for path in (config.first, config.second)]
    if specs[0].version == specs[1].version or specs[0].name != specs[1].name:
        raise UsageError("the two packages must be different versions of one model: export.build --version")
    with tempfile.TemporaryDirectory(prefix="rollouts-") as work:
        found = measure(config, specs[0].name, len(specs[0].classes), Path(work))
    if config.json:
        print(host.json_of(found))
    else:
        show(found)
    for line in found["bottlenecks"]:
        print(f"error: {line}", file=sys.stderr)
    reasons = ("failed", "of_no_default", "rollouts_failed", "bottlenecks")
    return 1 if any(found[reason] for reason in reasons) else 0


def measure(config: RolloutsConfig, name: str, num_classes: int, work: Path) -> dict[str, Any]:
    """Serve, load, swap. Returns: the figures."""
    answers, swaps = work / "answers.jsonl", list[dict[str, Any]]()
    with (
        loaded.server(config.first, name, work) as running,
        loaded.locust(running.url, name, num_classes, config.users, answers) as process,
    ):
        run_dir = Path(running.run_dir)
        started = time.time()
        _busy_for(config.quiet_s)
        for number in track(range(config.swaps), "rollouts", console=Console(stderr=True)):
            loaded.require_load(process, answers)
            mar = (config.second, config.first)[number % 2]
            swaps.append(roll_out(mar, run_dir, config.watch_s))
        _busy_for(config.quiet_s)
        ended = time.time()
    figures = summary(sent_between(loaded.read(answers), started, ended), swaps)
    return {**figures, "bottlenecks": loaded.bottlenecks(answers)}


def sent_between(rows: Sequence[dict[str, Any]], started: float, ended: float) -> list[dict[str, Any]]:
    """Of those, the last are answered after the end, and one that hung since the last rollout is given up then."""
    return [row for row in rows if started <= row["sent"] <= ended]


def summary(rows: Sequence[dict[str, Any]], swaps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures from Locust's answers and what each rollout reported."""
    during, without = list[dict[str, Any]](), list[dict[str, Any]]()
    for row in rows:
        touched = any(swap["began"] < row["done"] and row["sent"] < swap["ended"] for swap in swaps)
        (during if touched else without).append(row)
    p99 = {key: percentile_ms(part, 99) for key, part in (("during", during), ("without", without))}
    return {
        "answers": len(rows),
        "failed": sum(row["wrong"] is not None for row in rows),
        "failures": sorted({str(row["wrong"]) for row in rows if row["wrong"] is not None})[:10],
        "of_no_default": sum(not was_default(row, swaps) for row in rows if row["wrong"] is None),
        "rollouts": len(swaps),
        "rollouts_failed": sum(swap["exit_code"] != 0 for swap in swaps),
        "rollout_errors": [swap["error"] for swap in swaps if swap["exit_code"] != 0],
        "rollout_s": statistics.median(swap["ended"] - swap["began"] for swap in swaps),
        "p50_ms": {"during": percentile_ms(during, 50), "without": percentile_ms(without, 50)},
        "p99_ms": p99,
        "p99_ratio": p99["during"] / p99["without"] if p99["without"] else math.nan,
        "answers_per_s": len(rows) / max(1e-9, max(r["sent"] for r in rows) - min(r["sent"] for r in rows)),
    }


def was_default(row: dict[str, Any], swaps: Sequence[dict[str, Any]]) -> bool:
    """Whether the version that answered was the default at some time while the request was on its way."""
    done = [swap for swap in swaps if swap["exit_code"] == 0]
    if not done:
        return True
    times: list[tuple[str, float, float]] = []  # version, from when at the earliest, until when at the latest
    since = -math.inf
    for swap in done:
        times.append((swap["old"], since, swap["default_since"][1]))
        since = swap["default_since"][0]
    times.append((done[-1]["new"], since, math.inf))
    return any(
        version == row["version"] and row["sent"] <= until and row["done"] >= begin for version, begin, until in times
    )  # fmt: skip


def percentile_ms(rows: Sequence[dict[str, Any]], percent: float) -> float:
    """Nearest rank, over all answers, from when they were due; NaN if there are none."""
    return 1e3 * percentile([row["done"] - row["due"] for row in rows], percent)


def show(found: dict[str, Any]) -> None:
    """In words."""
    print(
        f"{found['rollouts']} rollouts ({found['rollouts_failed']} failed, {found['rollout_s']:.0f} s each) under "
        f"{found['answers']} requests ({found['answers_per_s']:.1f} a second): {found['failed']} lost or wrong, "
        f"{found['of_no_default']} answered by a version that was not the default"
    )
    print(
        f"p50 {found['p50_ms']['during']:.0f} ms during rollouts, {found['p50_ms']['without']:.0f} without; p99 "
        f"{found['p99_ms']['during']:.0f} and {found['p99_ms']['without']:.0f} ms, {found['p99_ratio']:.2f} times"
    )
    for line in (*found["failures"], *found["rollout_errors"]):
        print(f"  {line}")


def _busy_for(seconds: float) -> None:
    """Locust works meanwhile."""
    time.sleep(seconds)


def roll_out(mar: Path, run_dir: Path, watch_s: float) -> dict[str, Any]:
    """By deploy.rollout. Returns: what it found, and began, ended (s since 1970), exit_code, error."""
    began = time.time()
    done = subprocess.run(
        [
            sys.executable, "-m", "deploy.rollout", str(mar), "--run-dir", str(run_dir), "--watch-s", str(watch_s),
            "--json",
        ],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return {
        **found,
        "began": began,
        "ended": time.time(),
        "exit_code": done.returncode,
        "error": done.stderr[-600:],
    }


if __name__ == "__main__":
    run(RolloutsConfig, main)
