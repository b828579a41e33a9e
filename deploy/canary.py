"""A share of a model's traffic to a version that is not its default, by way of the front.

    set_canary(running, "rooms", "2.0", 0.05)   # 5 % of what asks for rooms, naming no version, is answered by 2.0
    clear_canary(running, "rooms")

What the canary can't answer (an error of the server, or the version is gone), and what it refuses (400, 406, 413, 415,
422), the default version does, so a client never meets a bad canary's errors: look for them in
RUN/front/logs/access.log, where `canary` names the version and `upstream_status` has both answers ("503 : 200"). A
wrong mask is no error: that is what a watch is for.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from deploy import run_folder
from deploy.addresses import reachable
from deploy.front_config import Canary
from deploy.front_process import Front, change, front_running
from deploy.management import Management
from deploy.run_folder import Running
from segserve.cli import command
from segserve.errors import CheckFailed, ServerError

__all__ = ["Canary", "Front", "clear_canary", "front_running", "require_front", "set_canary"]


def set_canary(running: Running, name: str, version: str, share: float) -> Front:
    """Send that share (above 0, up to 1) there. Holds when this returns; no request is lost.

    Raises: CheckFailed if that version has no READY worker or is the default; UsageError for a share or a name that
    can't be; ServerError if no front runs or nginx won't have it.
    """
    canary = Canary(version, share)
    with Management.of(running) as management:
        state = management.version(name, version)
        if state is None or not state.ready:
            has = ", ".join(f"{v.version} ({v.workers_ready} READY)" for v in management.versions(name))
            raise CheckFailed(
                f"{name} {version} has no READY worker, so it can't be a canary; the server has of {name}: "
                f"{has or 'no version'}"
            )
        if management.default_version(name) == version:
            raise CheckFailed(f"{name} {version} is the default already: all requests go there")
    return _change(require_front(running), name, canary)


def clear_canary(running: Running, name: str) -> None:
    """All requests that name no version go to the default again. No error if there was no canary, or no front.

    Requests that the canary has taken are still being answered when this returns: drain it before it is unregistered.
    Raises: ServerError if nginx won't have it.
    """
    front = front_running(Path(running.run_dir))
    if front is not None:
        _change(front, name, None)


def require_front(running: Running) -> Front:
    """The front before that server. Raises: ServerError if none runs, or it was started before another server."""
    front = front_running(Path(running.run_dir))
    if front is None:
        start = command("deploy.front", "start", "--run-dir", running.run_dir)
        raise ServerError(f"no front runs for {running.url}; start it: {start}")
    if front.settings.upstream != upstream_of(running):
        raise ServerError(
            f"the front {front.url} leads to {front.settings.upstream}, the server is at {running.url}; stop the front "
            "and start it again"
        )
    return front


def upstream_of(running: Running) -> str:
    """HOST:PORT of the server, as the front finds it."""
    return urlsplit(reachable(running.url)).netloc


def _change(front: Front, name: str, canary: Canary | None) -> Front:
    with run_folder.exclusive(front.folder):
        front = front_running(front.folder.parent) or front  # again: now nobody else changes it
        canaries = {other: kept for other, kept in front.canaries.items() if other != name}
        if canary is not None:
            canaries[name] = canary
        return front if canaries == front.canaries else change(front, canaries)
