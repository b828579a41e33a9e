"""A server of its own and Locust in its own process, for measurements that look at a long load from outside.

with server(mar, name, work) as running, locust(running.url, name, num_classes, users, answers_file):
    ...
rows = read(answers_file)
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.load_photos import rendered_folder
from benchmarks.load_record import BOTTLENECK, NO_REPORT, UNWRITTEN
from benchmarks.photos import MIXED_SIZES
from benchmarks.ports import free_ports
from benchmarks.signals import as_ctrl_c
from deploy import run_folder
from deploy.options import REPOSITORY
from deploy.run_folder import Running
from segserve.errors import ServerError

LOCUST_START_S = 150.0
"""Without a sign of it. Before the load it sends each photo once, which may take load_users.TIMEOUT_S, and says how far
it is (progress.py): a folder of a thousand photos takes as long as it takes."""
LOCUST_END_S = 180.0
"""It waits for the answers that are on their way."""


@contextlib.contextmanager
def server(mar: Path, name: str, work: Path) -> Iterator[Running]:
    """`mar` under its own name, from `deploy.server`, in the empty folder `work`."""
    store, run_dir = work / "store", work / "run"
    store.mkdir()
    (store / "first.mar").write_bytes(mar.read_bytes())
    inference, metrics = free_ports(2)
    options = ("--run-dir", str(run_dir))
    with as_ctrl_c():
        try:
            module(
                "deploy.server", "start", "--detach", *options, "--model-store", str(store), "--models",
                f"{name}=first.mar", "--port", str(inference), "--metrics-port", str(metrics),
            )  # fmt: skip
            yield run_folder.require_running(run_dir)
        finally:
            module("deploy.server", "stop", *options)


@contextlib.contextmanager
def front(running: Running) -> Iterator[str]:
    """nginx before the server, from `deploy.front`. Gives its URL."""
    options = ("--run-dir", running.run_dir)
    [port] = free_ports(1)
    try:
        module("deploy.front", "start", *options, "--port", str(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        module("deploy.front", "stop", *options)


@contextlib.contextmanager
def locust(
    url: str, name: str, num_classes: int, users: int, answers: Path, file: str = "locustfile.py",
    photos: Path | None = None, options: Sequence[str] = (),
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Load from when the first answer is there; `answers` gets a line for each. Gives Locust's process.

    photos: folder of what is sent; rooms of 0.3 to 3 megapixels without it. options: more of them.

    Raises: ServerError if no answer comes, if a load process dies, hangs or can't write down an answer: then the
    rest of the load was never sent, or what came of it is not known.
    """
    command = [
        sys.executable, "-m", "locust", "-f", f"benchmarks/{file}", "--headless", "--only-summary",
        "--host", url, "--model", name, "--num-classes", str(num_classes), "--answers", str(answers),
        "--users", str(users), "--spawn-rate", str(users), "--photos", str(photos or rendered_folder(MIXED_SIZES)),
        *options,
    ]  # fmt: skip
    with as_ctrl_c(), _log(answers).open("w") as told:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=told, stderr=subprocess.STDOUT)
        try:
            _wait_for_an_answer(process, answers)
            yield process
            if "--shape" in options:  # it ends by itself, and before that SIGTERM cuts off what is on its way
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=LOCUST_END_S)
            else:
                require_load(process, answers)
        finally:
            process.send_signal(signal.SIGTERM)
            ended = _ended(process)
    if not ended:  # told here, where it replaces no error that led to it
        raise ServerError(f"Locust had to be killed, answers are missing: {_tail(answers)}")
    _require_whole(process, answers)


def _require_whole(process: subprocess.Popen[bytes], answers: Path) -> None:
    """Raises: ServerError if Locust, which has ended, says that answers are missing."""
    told = _log(answers).read_text(errors="replace")
    if process.returncode < 0 or NO_REPORT in told:
        raise ServerError(f"a load process died, answers are missing: {_tail(answers)}")
    if unwritten := [line for line in told.splitlines() if UNWRITTEN in line]:
        raise ServerError(f"answers are missing, is the disk full? {unwritten[0]}")


def _wait_for_an_answer(process: subprocess.Popen[bytes], answers: Path) -> None:
    heard, last = 0, time.monotonic()
    while not (answers.exists() and answers.stat().st_size):
        if (length := _log(answers).stat().st_size) != heard:
            heard, last = length, time.monotonic()
        if process.poll() is not None or time.monotonic() > last + LOCUST_START_S:
            raise ServerError(f"Locust got no answer: {_tail(answers)}")
        time.sleep(0.2)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it ends; if not it is killed, and its own processes, so that nothing loads a server thought idle."""
    try:
        process.wait(timeout=LOCUST_END_S)
    except subprocess.TimeoutExpired:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        process.wait()
        return False
    return True


def require_load(process: subprocess.Popen[bytes], answers: Path) -> None:
    """Raises: ServerError if Locust, which is to load until it is told to end, has ended."""
    if process.poll() is not None:
        raise ServerError(f"Locust ended by itself, exit code {process.returncode}: {_tail(answers)}")


def bottlenecks(answers: Path) -> list[str]:
    """A sentence for each load process that was too busy; it has ended. Then what was measured is Locust itself."""
    lines = _log(answers).read_text(errors="replace").splitlines()
    return [line.removeprefix("error: ") for line in lines if BOTTLENECK in line]


def _log(answers: Path) -> Path:
    return answers.with_suffix(".log")


def _tail(answers: Path) -> str:
    return _log(answers).read_text(errors="replace")[-600:]


def read(answers: Path) -> list[dict[str, Any]]:
    """One dict an answer, with the fields of answers.Answered."""
    return [json.loads(line) for line in answers.read_text().splitlines()]


def count(answers: Path) -> int:
    """How many there are so far."""
    return answers.read_bytes().count(b"\n")


def module(*arguments: str) -> None:
    """Run one of ours to its end. Raises: ServerError."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(arguments[:2])} failed: {done.stderr.strip()}")
