"""The run folder: everything that one running server owns, readable by its owner only (mode 0700).

RUN/server.json        which process, which addresses (there while it runs)
RUN/management.sock    the management API: who may enter the folder may manage the server
RUN/config.properties  what the server was really started with
RUN/key_file.json      the tokens, where they are on
RUN/models.json        which versions it shall have, and the default: what a restart comes back with
RUN/rollout.json       a rollout that is on its way, for the next one to clear up after, if it was killed
RUN/logs/  RUN/tmp/    logs; unpacked models and the sockets of the workers
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.processes import identity
from segserve.cli import command
from segserve.errors import ServerError, UsageError

STATE_FILE = "server.json"
KEY_FILE = "key_file.json"
LOCK_FILE = ".lock"
"""In every run folder from its first start on, so it also tells a run folder from any other."""
LINGERING = Path("/var/lib/systemd/linger")
"""Has a file of the name of each user who lingers."""
SOCKETS_PREFIX = ".segserve-"
MAX_SOCKET_PATH_BYTES = 107
"""sun_path of a unix socket is 108 bytes, one of them the end mark."""


@dataclass(frozen=True)
class Running:
    """What is known of a server that was started. Paths are absolute."""

    pid: int
    identity: str
    url: str
    metrics_url: str
    management_socket: str
    models: tuple[str, ...]
    auth: str
    run_dir: str
    tmp_dir: str
    log_dir: str
    model_store: str

    def alive(self) -> bool:
        """Whether that very process is there, not another one that got its number."""
        return bool(self.identity) and identity(self.pid) == self.identity

    def token(self, kind: str) -> str | None:
        """The token for `inference` or `management`, or the key `API` that makes new ones; None if they are off."""
        return read_token(Path(self.run_dir) / KEY_FILE, kind) if self.auth == "token" else None


def read_token(key_file: Path, kind: str) -> str:
    """Raises UsageError if the file is not there or is not a key file of TorchServe."""
    try:
        return str(json.loads(key_file.read_text())[kind]["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{key_file} holds no {kind} token ({error}); a server that was started with --auth token writes it "
            f"to RUN/{KEY_FILE}"
        ) from None


def create(run_dir: Path) -> Path:
    """Make the folder, private even if it was there. Returns: its absolute path.

    Raises: UsageError if it cannot be made, or holds something of somebody else's: parts of it get deleted.
    """
    try:
        if run_dir.is_dir() and any(run_dir.iterdir()) and not (run_dir / LOCK_FILE).exists():
            raise UsageError(
                f"{run_dir} is not empty and is no run folder of a server; choose another: --run-dir"
            )
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_dir.chmod(0o700)
    except OSError as error:
        raise UsageError(
            f"cannot use {run_dir} as run folder: {error.strerror}; choose another: --run-dir"
        ) from None
    return run_dir.resolve()


@contextlib.contextmanager
def exclusive(run_dir: Path) -> Iterator[None]:
    """Two starts at once: the second waits until the first has written server.json, and then sees it.

    A stop that clears up and a start do so too. Not to be taken twice: who waits for itself waits for ever.
    """
    with (run_dir / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def socket_dir(run_dir: Path) -> Path:
    """Where sockets go: RUN, or a short private folder where paths in RUN are too long for a unix socket.

    That has to be there for as long as the server runs, unpacked models included. So it is made in the user's runtime
    folder ($XDG_RUNTIME_DIR) only where that outlives the user's last logout, otherwise in the home folder, which no
    clean-up of old files touches; in /tmp where these are not there, or too long as well.
    """
    if _short_enough(run_dir):
        return run_dir
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "")) if _lingers() else Path()
    home = Path(os.environ.get("HOME", ""))
    where = next((folder for folder in (runtime, home) if _has_room(folder)), Path("/tmp"))
    return Path(tempfile.mkdtemp(prefix=SOCKETS_PREFIX, dir=where))


def _lingers() -> bool:
    """Whether logind keeps what belongs to this user when nobody is logged in (`loginctl enable-linger`)."""
    try:
        return (LINGERING / pwd.getpwuid(os.getuid()).pw_name).exists()
    except KeyError:  # a container's number without a name
        return False


def _has_room(folder: Path) -> bool:
    return (
        folder.is_absolute()
        and os.access(folder, os.W_OK | os.X_OK)
        and _short_enough(folder / f"{SOCKETS_PREFIX}12345678")
    )


def _short_enough(folder: Path) -> bool:
    return len(os.fsencode(folder / "tmp" / ".ts.sock.99999")) <= MAX_SOCKET_PATH_BYTES


def save(running: Running) -> None:
    """Write server.json in one step, so that nobody reads half of it."""
    write_json(Path(running.run_dir) / STATE_FILE, dataclasses.asdict(running))


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a file in one step by one that is on the disk as a whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(json.dumps(document, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def require_running(run_dir: Path) -> Running:
    """The live server of that folder. Raises: ServerError if there is none."""
    running = load(run_dir)
    if running is None or not running.alive():
        raise ServerError(
            f"nothing runs in {run_dir}; start it: {command('deploy.server', 'start', '--run-dir', run_dir)}"
        )
    return running


def load(run_dir: Path) -> Running | None:
    """The server of this run folder, alive or not; None if none was started or it was stopped cleanly.

    Raises: UsageError for a folder of another user's, ServerError for a torn file.
    """
    path = run_dir / STATE_FILE
    try:
        values = json.loads(path.read_text())
        return Running(**{**values, "models": tuple(values["models"])})
    except FileNotFoundError:
        return None
    except PermissionError:
        raise not_ours(path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{path} cannot be read ({error}); end its server by hand and remove the file"
        ) from None


def not_ours(path: Path) -> UsageError:
    """What to raise where a file of a run folder may not be read: it is not torn, and its server may well run."""
    owner = _owner(path)
    if owner == os.geteuid():
        return UsageError(
            f"{path} may not be read, though it is yours; see the permissions of it and its folder"
        )
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:  # of another container, say
        name = f"user {owner}"
    return UsageError(
        f"{path} may not be read, it belongs to {name}: run this as {name}, or name a run folder of yours: --run-dir"
    )


def _owner(path: Path) -> int:
    """User id of the owner, or of that of the folder that may not be entered: a run folder may be by its owner only."""
    try:
        return path.stat().st_uid
    except PermissionError:
        return _owner(path.absolute().parent)


def clear(running: Running) -> None:
    """Remove what means something only while the server runs. Logs and the effective configuration stay.

    What lies in the run folder stays too if another server has been started in it since: it is that one's. The caller
    holds the lock of `exclusive`, so that none gets started meanwhile.
    """
    run_dir, sockets = Path(running.run_dir), Path(running.management_socket).parent
    if sockets != run_dir:  # a folder that was made for this server alone
        shutil.rmtree(sockets, ignore_errors=True)
    last = load(run_dir)
    if last is None or (last.pid, last.identity) != (running.pid, running.identity):
        return
    shutil.rmtree(running.tmp_dir, ignore_errors=True)
    for path in (Path(running.management_socket), run_dir / KEY_FILE, run_dir / STATE_FILE):
        path.unlink(missing_ok=True)
