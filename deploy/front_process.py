"""The nginx of a run folder: start, reload, rotate its logs, stop; always by process id.

RUN/front/front.json   which process, its settings, its canaries (there while it runs)
RUN/front/nginx.conf   what it was started with, or reloaded
RUN/front/logs/        access.log (a JSON object a request), error.log
RUN/front/tmp/         bodies of large requests while they are on their way
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]

from deploy import processes
from deploy.front_config import Canary, FrontSettings, render
from deploy.run_folder import not_ours, write_json
from segserve.errors import ServerError

FOLDER: Final = "front"
STATE_FILE: Final = "front.json"
KEPT_LOGS: Final = 5
CHANGE_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 60.0
"""What requests in flight get to end when the front is stopped."""
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where packages put nginx; not on the PATH of every user."""


@dataclass(frozen=True)
class Front:
    """A front that was started. canaries: by model name."""

    pid: int
    identity: str
    settings: FrontSettings
    canaries: Mapping[str, Canary] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self.settings.url

    @property
    def folder(self) -> Path:
        """RUN/front."""
        return Path(self.settings.folder)

    def alive(self) -> bool:
        """Whether that very process is there."""
        return bool(self.identity) and processes.identity(self.pid) == self.identity


def front_running(run_dir: Path) -> Front | None:
    """The front of this run folder, if it runs. Raises: ServerError for a torn front.json."""
    front = load(run_dir)
    return front if front is not None and front.alive() else None


def load(run_dir: Path) -> Front | None:
    """The front of this run folder, alive or not; None if none was started or it was stopped cleanly."""
    path = run_dir / FOLDER / STATE_FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        settings = {**values["settings"], "names": tuple(values["settings"]["names"])}
        canaries = {name: Canary(**canary) for name, canary in values["canaries"].items()}
        return Front(values["pid"], values["identity"], FrontSettings(**settings), canaries)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise not_ours(path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{path} cannot be read ({error}); end its nginx by hand and remove the file"
        ) from None


def nginx() -> str:
    """Path of the program. Raises: ServerError where it is not installed."""
    found = shutil.which("nginx") or shutil.which("nginx", path=SYSTEM_PATH)
    if found is None:
        raise ServerError(
            "nginx is not installed; install it (Debian, Ubuntu: apt install nginx-light, or nginx). Its service is "
            "not needed: systemctl disable --now nginx"
        )
    return found


def launch(settings: FrontSettings) -> Front:
    """Start it in a session of its own and wait until it listens. Raises: ServerError if it does not."""
    program, folder = nginx(), Path(settings.folder)
    shutil.rmtree(folder / "tmp", ignore_errors=True)  # parts of photos, where the last one was killed
    for name in ("tmp", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    config = _tested(program, settings, {})
    os.replace(config, folder / "nginx.conf")
    with (folder / "logs" / "console.log").open("wb") as console:
        process = subprocess.Popen(
            [*_command(program, folder), "-c", str(folder / "nginx.conf")],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
        )  # fmt: skip
    try:
        front = Front(process.pid, processes.identity(process.pid), settings)
        up = processes.wait_until(
            lambda: process.poll() is not None or bool(_accepting(process.pid)), CHANGE_TIMEOUT_S
        )
        if not up or process.poll() is not None:
            raise ServerError(f"nginx did not start: {_said(folder)}")
        save(front)
    except BaseException:  # nobody would find it any more
        processes.end_session(process.pid, 5.0)
        process.wait()
        raise
    return front


def change(front: Front, canaries: Mapping[str, Canary]) -> Front:
    """Put other canaries, and renewed certificates, into effect; no request is lost. Returns when they hold.

    nginx tests the new configuration before it is used. The processes of the old one answer what they have taken and
    take nothing more.

    Raises: ServerError if nginx won't have it (the old one stays in effect), or takes too long (nobody knows which of
    them will be).
    """
    config = front.folder / "nginx.conf"
    before = config.read_text()
    os.replace(_tested(nginx(), front.settings, canaries), config)
    old = _accepting(front.pid)
    processes.send([front.pid], signal.SIGHUP)

    def taken_over() -> bool:
        now = _accepting(front.pid)
        return bool(now) and not now & old

    if not processes.wait_until(taken_over, CHANGE_TIMEOUT_S):
        config.write_text(before)
        raise ServerError(f"nginx did not take the new configuration: {_said(front.folder)}")
    changed = dataclasses.replace(front, canaries=dict(canaries))
    save(changed)
    return changed


def rotate(front: Front) -> None:
    """Begin new logs; of each the last KEPT_LOGS are kept, .1 being the newest."""
    for name in ("access.log", "error.log"):
        log = front.folder / "logs" / name
        for number in range(KEPT_LOGS, 0, -1):
            source = log if number == 1 else log.with_name(f"{name}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                os.replace(source, log.with_name(f"{name}.{number}"))
        processes.send([front.pid], signal.SIGUSR1)
        if not processes.wait_until(log.exists, CHANGE_TIMEOUT_S):
            raise ServerError(f"nginx did not open a new {log}")


def end(front: Front) -> None:
    """Answer what is in flight, up to FINISH_TIMEOUT_S, then end. `clear` does the rest."""
    if front.alive():
        processes.send([front.pid], signal.SIGQUIT)
        processes.wait_until(lambda: not front.alive(), FINISH_TIMEOUT_S)
        if front.alive():
            processes.end_session(front.pid, 5.0)
    _end_orphans(front)


def clear(front: Front) -> None:
    """After one that has ended nothing is left behind but the logs, and what is the next front's, if one was started.

    The caller holds the lock of `run_folder.exclusive` of its folder, so that none is started meanwhile.
    """
    last = load(front.folder.parent)
    if last is not None and (last.pid, last.identity) == (front.pid, front.identity):
        shutil.rmtree(front.folder / "tmp", ignore_errors=True)
        (front.folder / STATE_FILE).unlink(missing_ok=True)


def save(front: Front) -> None:
    """Write front.json in one step."""
    write_json(front.folder / STATE_FILE, dataclasses.asdict(front))


def _end_orphans(front: Front) -> None:
    """Workers of a master that was killed: they keep the port and go on answering."""
    same_boot = front.identity.split()[:1] == processes.identity(os.getpid()).split()[:1]
    if same_boot and not processes.exists(front.pid):
        left = [pid for pid in processes.session_members(front.pid) if "nginx:" in _title(pid)]
        processes.send(left, signal.SIGKILL)
        processes.wait_until(lambda: not any(map(processes.exists, left)), 10.0)


def _command(program: str, folder: Path) -> list[str]:
    return [program, "-p", str(folder), "-e", str(folder / "logs" / "error.log")]


def _tested(program: str, settings: FrontSettings, canaries: Mapping[str, Canary]) -> Path:
    """A new configuration beside the one in use, which nginx finds good."""
    folder = Path(settings.folder)
    config = folder / "nginx.conf.partial"
    config.write_text(render(settings, canaries))
    done = subprocess.run(
        [*_command(program, folder), "-t", "-q", "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError(f"nginx does not take its configuration: {done.stderr.strip()}")
    return config


def _accepting(master: int) -> set[int]:
    """The pids of the workers that take new requests."""
    try:
        workers = {child.pid for child in psutil.Process(master).children()}
    except psutil.NoSuchProcess:
        return set()
    return {
        pid for pid in workers if "worker process" in (title := _title(pid)) and "shutting down" not in title
    }


def _title(pid: int) -> str:
    with contextlib.suppress(*processes.GOING):
        return " ".join(psutil.Process(pid).cmdline())
    return ""


def _said(folder: Path) -> str:
    """The last that nginx had to say."""
    for name in ("console.log", "error.log"):
        with contextlib.suppress(OSError):
            if lines := (folder / "logs" / name).read_text(errors="replace").strip().splitlines():
                return f"{lines[-1]} (see {folder / 'logs'})"
    return f"see {folder / 'logs'}"
