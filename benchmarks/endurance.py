"""A long load of photos and bad files: every status as promised, and no memory lost.

    python -m benchmarks.endurance model_store/rooms.mar --requests 50000 --users 16
    python -m benchmarks.endurance model_store/rooms.mar --requests 5000 --users 512 --front --json

Locust (benchmarks/mixed_locustfile.py) sends photos of 0.3 to 3 megapixels and, one in twenty, files that deserve an
error. Who gets 503 because the queue is full comes again some seconds later, as deploy.client does. Memory of Java and
of the workers is taken after the first tenth and at the end, and masks a second are counted between the two: before,
users are still coming, and after, they leave. Exit code 1 if any answer was not the promised one (as any other 5xx), if
no mask came at all, or if the client was the bottleneck.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import Progress

from benchmarks import host, loaded, mar_settings
from benchmarks.rollouts import percentile_ms
from deploy.management import Management
from deploy.processes import memory_mib
from deploy.run_folder import Running
from segserve.cli import run
from segserve.errors import UsageError
from segserve.package import check_package


@dataclass(frozen=True)
class EnduranceConfig:
    """How much of what."""

    mar: tyro.conf.Positional[Path]
    """Package that is served."""
    requests: int = 50_000
    """Answers to wait for."""
    users: int = 16
    """Locust's users, each with one request on its way at any time."""
    front: bool = False
    """Through deploy.front, which needs nginx and refuses what is too much before the photo is sent."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        mar_settings.require_files(self.mar, None)
        if self.requests < 100 or self.users < 1:
            raise UsageError("--requests: at least 100; --users: at least 1")


def main(config: EnduranceConfig) -> int:
    """Exit code as above."""
    spec = check_package(config.mar)
    with tempfile.TemporaryDirectory(prefix="endurance-") as work:
        found = measure(config, spec.name, len(spec.classes), Path(work))
    if config.json:
        print(host.json_of(found))
    else:
        show(found)
    for line in found["bottlenecks"]:
        print(f"error: {line}", file=sys.stderr)
    return 1 if found["wrong"] or found["errors_5xx"] or found["bottlenecks"] or not found["masks"] else 0


def measure(config: EnduranceConfig, name: str, num_classes: int, work: Path) -> dict[str, Any]:
    """Serve and load. Returns: the figures."""
    answers = work / "answers.jsonl"
    with (
        loaded.server(config.mar, name, work) as running,
        loaded.front(running) if config.front else contextlib.nullcontext(running.url) as url,
        loaded.locust(url, name, num_classes, config.users, answers, "mixed_locustfile.py") as process,
        Progress(console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("answers", total=config.requests)
        early: dict[str, float] = {}
        while (done := loaded.count(answers)) < config.requests:
            loaded.require_load(process, answers)
            progress.update(task, completed=done)
            if not early and done >= config.requests // 10:
                early = memory(running, name)
            time.sleep(1.0)
        late = memory(running, name)
    return {
        **summary(loaded.read(answers), config.requests),
        "bottlenecks": loaded.bottlenecks(answers),
        "users": config.users,
        "mib_early": early,
        "mib_late": late,
    }


def memory(running: Running, name: str) -> dict[str, float]:
    """MiB of Java and of all workers of the model."""
    with Management.of(running) as management:
        pids = [pid for state in management.versions(name) for pid in state.worker_pids]
    return {"java": memory_mib([running.pid]), "workers": memory_mib(pids)}


def summary(rows: Sequence[dict[str, Any]], requests: int) -> dict[str, Any]:
    """Figures from Locust's answers, of which the first `requests` came under the full load."""
    wrong = Counter(str(row["wrong"]) for row in rows if row["wrong"] is not None)
    good = [row for row in rows if row["status"] == 200 and row["wrong"] is None]
    return {
        "answers": len(rows),
        "masks": len(good),
        "statuses": dict(sorted(Counter(int(row["status"]) for row in rows).items())),
        "wrong": sum(wrong.values()),
        "wrong_most": dict(wrong.most_common(10)),
        "asked_to_wait": sum(map(asked_to_wait, rows)),
        "errors_5xx": sum(row["status"] >= 500 and not asked_to_wait(row) for row in rows),
        "goodput_per_s": goodput_per_s(rows, requests),
        "p50_ms": percentile_ms(good, 50),
        "p99_ms": percentile_ms(good, 99),
    }


def asked_to_wait(row: dict[str, Any]) -> bool:
    """Whether the server said that it is full: a 503 that says anything else is wrong."""
    return bool(row["status"] == 503 and row["wrong"] is None)


def goodput_per_s(rows: Sequence[dict[str, Any]], requests: int) -> float:
    """Right masks a second from the answer at a tenth of `requests` to the last of them."""
    loaded_rows = sorted(rows, key=lambda row: float(row["done"]))[requests // 10 : requests]
    seconds = float(loaded_rows[-1]["done"] - loaded_rows[0]["done"])
    good = [row for row in loaded_rows[1:] if row["status"] == 200 and row["wrong"] is None]
    return len(good) / seconds


def show(found: dict[str, Any]) -> None:
    """In words."""
    if found["asked_to_wait"]:
        print(f"{found['asked_to_wait']} answers were 503, the server was full; the client came again later")
    statuses = ", ".join(f"{count} x {status}" for status, count in found["statuses"].items())
    print(
        f"{found['answers']} answers to {found['users']} users: {statuses}; {found['wrong']} not as promised"
    )
    print(
        f"{found['goodput_per_s']:.1f} masks a second, p50 {found['p50_ms']:.0f} ms, p99 {found['p99_ms']:.0f} ms"
    )
    for part, early in found["mib_early"].items():
        late = found["mib_late"][part]
        print(f"{part}: {early:.0f} MiB after a tenth, {late:.0f} at the end, {late / early:.3f} times")
    for reason, count in found["wrong_most"].items():
        print(f"  {count} x {reason}")


if __name__ == "__main__":
    run(EnduranceConfig, main)
