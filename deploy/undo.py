"""The way back of a rollout, and its end: what puts the old version in its place again, what lets it go.

Both are written so that they can be run again after they were interrupted anywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import httpx

from deploy import canary, incoming, journal, served
from deploy.journal import Journal
from deploy.management import Management
from deploy.run_folder import Running
from segserve.errors import ServerError

DRAIN_TIMEOUT_S = 120.0


def undo(running: Running, management: Management, rollout: Journal) -> str:
    """The old version is the default, the new one is gone. Returns: what is the case now, in words."""
    run_dir, store = Path(running.run_dir), Path(running.model_store)
    name, new, old = rollout.name, rollout.new, rollout.old
    try:
        canary.clear_canary(running, name)
        if management.version(name, new) is not None:
            if management.default_version(name) == new:
                management.set_default(name, old)
            management.drain(name, new, DRAIN_TIMEOUT_S)
            management.unregister(name, new)
    except (ServerError, httpx.TransportError) as error:
        if running.alive():  # the next rollout tries again: the journal stays
            raise ServerError(
                f"{name} {new} could not be taken back ({error}); {old} is what a restart comes back with. See "
                "`python -m deploy.status`, then run the rollout again"
            ) from None
        incoming.remove(store, rollout.file)
        journal.clear(run_dir)
        return f"the server is gone; when it is started again, it serves {name} {old}"
    incoming.remove(store, rollout.file)
    journal.clear(run_dir)
    return f"rolled back: {name} {old} is in service, {new} is gone"


def retire(running: Running, management: Management, rollout: Journal) -> str:
    """The versions that go answer what they have, and go. One that clients keep asking for by name stays."""
    run_dir, name = Path(running.run_dir), rollout.name
    said = [f"{name} {rollout.new} is in service"]
    for version in rollout.going:
        state = management.version(name, version)
        if state is None:
            continue
        if not management.drain(name, version, DRAIN_TIMEOUT_S):
            said.append(f"{version} still gets requests that name it, so it stays")
            continue
        left = {
            s.version: s.file for s in management.versions(name) if s.version not in (version, rollout.new)
        }
        served.commit(run_dir, rollout, left)
        management.unregister(name, version)
        incoming.remove(Path(running.model_store), state.file)
        said.append(f"{version} is gone")
    journal.clear(run_dir)
    return "; ".join(said)


def recover(running: Running, management: Management, say: Callable[[str], None]) -> None:
    """Clear up after a rollout that was killed."""
    left = journal.load(Path(running.run_dir))
    if left is None:
        return
    say(f"the rollout of {left.name} {left.new} was cut off; clearing up after it")
    with contextlib.suppress(FileNotFoundError):
        say((retire if left.committed else undo)(running, management, left))
