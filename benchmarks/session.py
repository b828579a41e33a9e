"""One run of `benchmarks.run`: the result folder, a server (ours or somebody else's), loads on it one after another.

with session(options, mar, packages) as running:
    phase = running.load("8 clients", users=8, seconds=30.0)
    phase.rows, phase.seconds

answers.jsonl gets the answers that count: due after the warm-up and before the end; the last ones are waited for. Of
the others a phase keeps those that failed: they are in no figure, but they fail the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import answers, loaded
from benchmarks.answers import Answered
from benchmarks.ports import load_processes
from benchmarks.run_options import Common
from benchmarks.sampling import Sampler
from deploy import run_folder
from deploy.metrics import STEPS, scrape
from deploy.run_folder import Running
from segserve.errors import ServerError
from segserve.package import check_package

FIXED = 10_000.0
"""Seconds of a load whose end is what `meanwhile` decides."""


@dataclass(frozen=True)
class Phase:
    """One load: users of a closed load, or rate_per_s of an open one; began, ended: seconds since 1970.

    rows: answers that were due in this time, for latencies. completed: those that were complete in it, for throughput:
    of answers that take seconds, as many were due before it and are none of `rows`. first_due: when the warm-up began.
    """

    label: str
    users: int
    rate_per_s: float
    began: float
    ended: float
    rows: tuple[Answered, ...]
    completed: tuple[Answered, ...]
    bottlenecks: tuple[str, ...]
    first_due: float
    outside: tuple[Answered, ...] = ()
    """What was wrong or lost in the warm-up or after the end."""

    @property
    def seconds(self) -> float:
        """How long the counted part took."""
        return self.ended - self.began


@dataclass
class Session:
    """What is under way."""

    options: Common
    folder: Path
    url: str
    name: str
    num_classes: int
    running: Running | None
    sampler: Sampler
    packages: tuple[Path, ...]
    console: Console
    phases: list[Phase]

    def event(self, what: str, **more: Any) -> float:
        """Write down that something happened now. Returns: now, seconds since 1970."""
        now = time.time()
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"t": now, "what": what, **more}) + "\n")
        return now

    def load(
        self, label: str, *, users: int = 1, rate_per_s: float = 0.0, seconds: float = FIXED,
        arguments: tuple[str, ...] = (), file: str = "locustfile.py", meanwhile: Callable[[float], None] | None = None,
    ) -> Phase:  # fmt: skip
        """Warm up, then load for so long, or while `meanwhile` works. Raises: ServerError as loaded.locust."""
        options = ["--formats", self.options.formats, *arguments]
        if rate_per_s:
            options += ["--rate", f"{rate_per_s:.4f}"]
            users = max(users, self.options.processes)  # each process needs one
        if self.options.processes > 1:
            options += load_processes(self.options.processes)
        for package in self.packages:
            options += ["--mar", str(package.resolve())]
        number = 1 + len(list(self.folder.glob("load-*.log")))  # of all sessions that share the folder
        path = self.folder / f"load-{number}.jsonl"
        self.console.print(f"  {label}", markup=False)
        with loaded.locust(
            self.url, self.name, self.num_classes, users, path, file, self.options.photos, options
        ) as process:
            self.sampler.client_pid = process.pid
            sleep_while_running(self.options.warm_s, process)
            began = self.event(f"begin {label}", metrics_ms=self._steps_ms())
            if meanwhile is None:
                sleep_while_running(seconds, process, label, self.console)
            else:
                meanwhile(began)
            ended = self.event(f"end {label}", metrics_ms=self._steps_ms())
        self.sampler.client_pid = None
        return self._keep(Phase(label, users, rate_per_s, began, ended, (), (), (), 0.0), path)

    def _keep(self, phase: Phase, path: Path) -> Phase:
        log = path.with_suffix(".log").read_text(errors="replace")
        told = tuple(loaded.bottlenecks(path))
        seen = answers.read(path)
        rows = tuple(row for row in seen if phase.began <= row.due < phase.ended)
        completed = tuple(row for row in seen if phase.began <= row.done < phase.ended)
        outside = tuple(
            row for row in seen if row.wrong is not None and not phase.began <= row.due < phase.ended
        )
        if not rows:
            raise ServerError(f"no answer in {phase.seconds:.0f} s of {phase.label}: {log[-600:]}")
        with (self.folder / "answers.jsonl").open("a") as file:
            file.writelines(row.line() for row in rows)
        path.unlink()
        path.with_suffix(".log").rename(self.folder / f"{path.stem}.log")
        kept = dataclasses.replace(phase, rows=rows, completed=completed, bottlenecks=told,
                                   first_due=min(row.due for row in seen), outside=outside)  # fmt: skip
        self.phases.append(kept)
        return kept

    def _steps_ms(self) -> dict[str, dict[str, float]]:
        """The server's own histograms so far: step -> count and sum; empty if they cannot be had."""
        if self.running is None:
            return {}
        with contextlib.suppress(ServerError):
            seen = scrape(self.running.metrics_url)
            versions = {s.labels["version"] for s in seen.samples if s.labels.get("model") == self.name and
                        "version" in s.labels}  # fmt: skip
            totals = {}
            for step in STEPS:
                of_step = [seen.steps(self.name, version, step) for version in versions]
                totals[step] = {
                    "count": sum(h.count for h in of_step),
                    "ms": 1e3 * sum(h.sum_s for h in of_step),
                }
            return totals
        return {}


@contextlib.contextmanager
def session(options: Common, mar: Path | None = None, packages: tuple[Path, ...] = ()) -> Iterator[Session]:
    """A server that is ready, and the folder. mar: instead of the option's; packages: more whose masks are known.

    Raises: ServerError, UsageError, CheckFailed.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, highlight=False)
    with contextlib.ExitStack() as stack:
        running, url, name, num_classes = None, options.server or "", options.model, options.num_classes
        shown = packages
        if options.server is None:
            served = mar or options.mar
            shown = (served, *packages)
            spec = check_package(served)
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-")))
            console.print(f"starting a server for {served}", markup=False)
            running = stack.enter_context(loaded.server(served, spec.name, work))
            stack.callback(_save_logs, running, options.out)
            url, name, num_classes = running.url, spec.name, len(spec.classes)
        elif options.run_dir is not None:
            running = run_folder.require_running(options.run_dir)
        golden = tuple(path for path in shown if check_package(path).golden)
        pid = None if running is None else running.pid
        sampler = stack.enter_context(Sampler(options.out / "samples.jsonl", pid))
        yield Session(options, options.out.resolve(), url.rstrip("/"), name, num_classes, running, sampler,
                      golden, console, [])  # fmt: skip


def _save_logs(running: Running, out: Path) -> None:
    """The server's folder goes with the server; why a worker died would go with it."""
    for log in ("model_log.log", "ts_log.log"):
        with contextlib.suppress(OSError):
            shutil.copy(Path(running.log_dir) / log, out / log)


def sleep_while_running(
    seconds: float, process: subprocess.Popen[bytes], label: str = "", console: Console | None = None
) -> None:
    """As long, or until Locust has ended by itself, with a progress bar on `console`."""
    began = time.monotonic()
    with Progress(console=console, transient=True, disable=console is None) as progress:
        task = progress.add_task(label, total=seconds)
        while process.poll() is None and (left := began + seconds - time.monotonic()) > 0:
            time.sleep(min(0.25, left))
            progress.update(task, completed=time.monotonic() - began)
