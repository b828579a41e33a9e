"""Waiting until every version has a READY worker, and the real reason when that does not happen.

TorchServe starts a worker that dies again and again, for days, says 200 at /ping meanwhile, and reports any
ImportError of a handler as a missing `ts.torch_handler.NAME`. So its logs are read from where this start began.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.launch import loadable
from deploy.management import Management, ModelState
from deploy.processes import port_taken
from deploy.run_folder import Running
from deploy.served import Wanted
from segserve.errors import SegserveError, ServerError, Unreachable

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
    wanted: Wanted | None = None,
) -> tuple[str, ...]:
    """Return when all that is wanted (without it: each model, in any version) is loaded, and has a READY worker.

    A spare version that can't be loaded, dies or is late is reported and unregistered, as TorchServe would try it for
    days. Returns: those versions, NAME=FILE.

    Raises: ServerError with the reason if Java ends, a version cannot be loaded, its workers die again and again, or
    the time is over; UsageError if Java found a port taken.
    """
    deadline, told = time.monotonic() + timeout_s, 0
    with Management.of(running) as management:
        start = _Start(running, management, logs, wanted or Wanted(running.models), report)
        while True:
            if process.poll() is not None:
                raise _ended(running, process.returncode, logs)
            if start.is_ready(f"not ready after {timeout_s:.0f} s" if time.monotonic() > deadline else ""):
                return tuple(start.without)
            if (deaths := logs.deaths()) > told:
                report(f"a worker died, TorchServe starts it anew: {logs.worker_reason()}")
                told = deaths
            time.sleep(POLL_S)


@dataclass
class _Start:
    """A start that is waited for.

    `without`: the spare versions that it was given up to wait for. `charged`: deaths of workers that such a version
    answers for, by their threads' name, which others may share.
    """

    running: Running
    management: Management
    logs: StartLogs
    wanted: Wanted
    report: Callable[[str], None]
    without: list[str] = field(default_factory=list)
    charged: dict[str, int] = field(default_factory=dict)

    def is_ready(self, late: str) -> bool:
        """`late` says, where the time is over, that it is. Raises: ServerError if it never will be."""
        loaded = self._loaded()
        if loaded is None:
            if late:
                raise ServerError(f"{late}: the management API does not answer; see {self.running.log_dir}")
            return False
        for model, why in self._failures(loaded).items():
            self._give_up(model, why, loaded)
        waiting = {m: s for m, s in loaded.items() if not (s.ready or m in self.without)}
        for model, state in waiting.items() if late else ():
            why = f"{late}: no worker of {state.name} {state.version} is READY"
            self._give_up(model, f"{why} (allow more time with --ready-timeout-s)", loaded)
        return bool(late) or not waiting

    def _loaded(self) -> dict[str, ModelState] | None:
        """NAME=FILE → version. TorchServe has tried to load all before it answers; None until then."""
        socket = Path(self.running.management_socket)
        if not socket.exists():  # Java writes the tokens before it opens it
            return None
        try:
            return {
                f"{name}={state.file}": state
                for name in self.running.models
                for state in self.management.versions(name)
            }
        except Unreachable:
            return None

    def _failures(self, loaded: Mapping[str, ModelState]) -> dict[str, str]:
        """What will not get READY, and why."""
        there = loaded.keys() | {state.name for state in loaded.values()}
        not_loaded = {
            model: f"{model} was not loaded: {self._load_failure(model)}"
            for model in self.wanted.models
            if model not in there
        }
        waiting = [model for model, state in loaded.items() if not (state.ready or model in self.without)]
        # where versions share a cut name, a spare one answers for the deaths: the others show by the next ones
        spare_first = sorted(waiting, key=lambda model: model not in self.wanted.spare)
        return not_loaded | {model: why for model in spare_first if (why := self._deaths(loaded[model]))}

    def _deaths(self, state: ModelState) -> str:
        """Why its workers die again and again, charged to this version from now on; empty if they don't."""
        worker = f"{state.name}_{state.version}"
        thread, deaths = worker[:MAX_WORKER_NAME], self.logs.deaths(worker)
        if deaths - self.charged.get(thread, 0) < MAX_DEATHS:
            return ""
        self.charged[thread] = deaths
        return f"workers of {state.name} {state.version} die as soon as they start: {self.logs.worker_reason(worker)}"

    def _load_failure(self, model: str) -> str:
        """Why NAME=FILE, or any file of NAME, was not loaded: what TorchServe said, or what is wrong with the file."""
        file = re.escape(model.partition("=")[2])
        said = self.logs.text("ts_log.log")
        found = re.findall(rf"Failed to load model: .*{file}\n(?:\S*\.)?(\w+(?:Exception|Error): .*)", said)
        if found:
            return str(found[-1])
        given = not file or loadable(Path(self.running.model_store), Wanted((model,), frozenset({model})))
        return "TorchServe does not say why" if given else "its file is torn or gone"

    def _give_up(self, model: str, why: str, loaded: Mapping[str, ModelState]) -> None:
        if model in self.without:
            return
        if model not in self.wanted.spare:
            raise ServerError(f"{why}; see {self.running.log_dir}")
        self.report(
            f"{why}; the server starts without it, and the next start tries again; see {self.running.log_dir}"
        )
        self.without.append(model)
        if model in loaded:
            self._unregister(loaded[model])

    def _unregister(self, state: ModelState) -> None:
        """A spare version, which is no reason to end a start either where it stays."""
        try:
            self.management.unregister(state.name, state.version)
        except ServerError as error:
            self.report(
                f"{state.name} {state.version} could not be unregistered ({error}): TorchServe goes on trying it until "
                "the server is started again"
            )


def _ended(running: Running, code: int, logs: StartLogs) -> SegserveError:
    said = logs.text("console.log") + logs.text("ts_log.log")
    for url, option in ((running.url, "--port"), (running.metrics_url, "--metrics-port")):
        if f"Failed to bind to address: {url}" in said:
            host, _, port = url.removeprefix("http://").rpartition(":")
            return port_taken(host, int(port), option)
    return ServerError(f"the server ended with code {code}: {logs.exit_reason()}; see {running.log_dir}")
