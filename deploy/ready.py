"""Waiting until every model has a READY worker, and the real reason when that does not happen.

TorchServe starts a worker that dies again and again, for days, says 200 at /ping meanwhile, and reports any
ImportError of a handler as a missing `ts.torch_handler.NAME`. So its logs are read from where this start began.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from deploy.management import Management
from deploy.processes import port_taken
from deploy.run_folder import Running
from segserve.errors import SegserveError, ServerError

MAX_DEATHS = 2
"""One may be bad luck (memory), two is a loop."""
POLL_S = 0.2
MAX_WORKER_NAME = 25
"""TorchServe cuts NAME_VERSION to so many characters in the names of its threads, which its logs have."""

_LOG_PREFIX = re.compile(r"^\S+ \[\w+ *\] .*?-std(?:out|err) - ", re.MULTILINE)
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning)\b(?::.*)?$")
_FRAME = re.compile(r'^\s+File ".*?([^/"]+)", line (\d+), in ')
# TorchServe's own words on top of the real reason
_WRAPPERS = ("No module named 'ts.torch_handler.", "RuntimeError: 500 - ", "RuntimeError: 507 - ")


class StartLogs:
    """What was written to the logs since this object was made."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._offsets = {path.name: path.stat().st_size for path in log_dir.glob("*.log")}

    def text(self, name: str) -> str:
        """New text of one log file; console.log is written anew at each start."""
        path = self._log_dir / name
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(0 if name == "console.log" else self._offsets.get(name, 0))
            return file.read().decode(errors="replace")

    def deaths(self, model: str = "") -> int:
        """How often a worker died: any, or those of one NAME_VERSION."""
        thread = rf"W-\d+-{re.escape(model[:MAX_WORKER_NAME])} " if model else ".*"
        return len(
            re.findall(rf"(?m)^\S+ \[\w+ *\] {thread}WorkerThread - Retry worker: ", self.text("ts_log.log"))
        )

    def worker_reason(self, model: str = "") -> str:
        """Why the last worker died: the handler's own exception with its place, as far as it was printed."""
        text = self.text("model_log.log")
        if model:
            thread = f"-{model[:MAX_WORKER_NAME]}-std"
            text = "\n".join(line for line in text.splitlines() if thread in line.partition(" - ")[0])
        return last_exception(_LOG_PREFIX.sub("", text)) or (
            "the process ended without a message; it was killed, perhaps for want of memory"
        )

    def exit_reason(self) -> str:
        """What Java said before it ended."""
        said = [
            line
            for line in self.text("console.log").splitlines()
            if not line.startswith(("WARNING:", "\t", " "))
        ]
        return " / ".join(line.strip() for line in said if line.strip())[-500:] or "it said nothing"


def last_exception(text: str) -> str:
    """The last exception of Python tracebacks that is not TorchServe's wrapping of another one; empty if none."""
    found, place = "", ""
    for line in text.splitlines():
        if frame := _FRAME.match(line):
            place = f" ({frame[1]}, line {frame[2]})"
        elif _EXCEPTION.match(line):
            if not any(wrapper in line for wrapper in _WRAPPERS):
                found = line + place
            place = ""
    return found


def wait_ready(
    running: Running,
    process: subprocess.Popen[bytes],
    logs: StartLogs,
    timeout_s: float,
    report: Callable[[str], None],
) -> None:
    """Return when each model has a READY worker in each of its versions.

    Raises: ServerError with the reason if Java ends, a model cannot be loaded, a worker dies again and again, or the
    time is over; UsageError if Java found a port taken.
    """
    deadline, told = time.monotonic() + timeout_s, 0
    with Management.of(running) as management:
        while True:
            if process.poll() is not None:
                raise _ended(running, process.returncode, logs)
            deaths = logs.deaths()
            if deaths >= MAX_DEATHS:
                raise ServerError(
                    f"workers die as soon as they start: {logs.worker_reason()}; see {running.log_dir}"
                )
            if deaths > told:
                report(f"a worker died, TorchServe starts it anew: {logs.worker_reason()}")
                told = deaths
            waiting_for = _not_ready(running, management, logs)
            if not waiting_for:
                return
            if time.monotonic() > deadline:
                raise ServerError(
                    f"not ready after {timeout_s:.0f} s: {waiting_for}; see {running.log_dir}, "
                    "or allow more time with --ready-timeout-s"
                )
            time.sleep(POLL_S)


def _not_ready(running: Running, management: Management, logs: StartLogs) -> str:
    """What is still missing, in words; empty if nothing is."""
    if not Path(running.management_socket).exists():  # Java writes the tokens before it opens the socket
        return "the management API is not there yet"
    for name in running.models:
        try:
            versions = management.versions(name)
        except httpx.TransportError:
            return "the management API does not answer"
        if not versions:
            raise ServerError(f"model {name} was not loaded: {_load_failure(logs)}; see {running.log_dir}")
        for version in versions:
            if not version.ready:
                return f"no worker of {name} {version.version} is READY"
    return ""


def _load_failure(logs: StartLogs) -> str:
    text = logs.text("ts_log.log")
    found = re.findall(r"Failed to load model.*\n(?:\S*\.)?(\w+(?:Exception|Error): .*)", text)
    return found[-1] if found else "TorchServe does not say why"


def _ended(running: Running, code: int, logs: StartLogs) -> SegserveError:
    said = logs.text("console.log") + logs.text("ts_log.log")
    for url, option in ((running.url, "--port"), (running.metrics_url, "--metrics-port")):
        if f"Failed to bind to address: {url}" in said:
            host, _, port = url.removeprefix("http://").rpartition(":")
            return port_taken(host, int(port), option)
    return ServerError(f"the server ended with code {code}: {logs.exit_reason()}; see {running.log_dir}")
