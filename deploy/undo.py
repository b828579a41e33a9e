"""The way back of a rollout, and its end: what puts the old version in its place again, what lets it go.

Both are written so that they can be run again after they were interrupted anywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from deploy import canary, incoming, journal, served
from deploy.journal import Journal
from deploy.management import Management
from deploy.processes import wait_until
from deploy.run_folder import Running
from deploy.served import Served
from segserve.errors import CheckFailed, SegserveError, ServerError

DRAIN_TIMEOUT_S = 120.0
GOING_S = 5.0
"""A server that is being killed refuses connections before its process is gone."""


def undo(running: Running, management: Management, rollout: Journal) -> str:
    """The old version is the default, the new one is gone. Returns: what is the case now, in words."""
    run_dir, store = Path(running.run_dir), Path(running.model_store)
    name, new, old = rollout.name, rollout.new, rollout.old
    with contextlib.suppress(OSError):  # a full disk must not keep clients on the new version
        rollout.save(run_dir)  # the next rollout, should it have to go on, does not take it for committed
    try:
        there = management.version(name, new) is not None
        if there and rollout.reached:
            management.set_default(name, old)  # first of all: from now on clients are safe
        trouble = canary_off(running, name)
        if there and rollout.reached:
            management.drain(name, new, DRAIN_TIMEOUT_S)
        management.unregister(name, new)
    except ServerError as error:
        gone = wait_until(lambda: not running.alive(), GOING_S)
        if not gone:  # the next rollout tries again: the journal stays
            raise CheckFailed(
                f"{name} {new} could not be taken back ({error}); {old} is what a restart comes back with. See "
                "`python -m deploy.status`, then run the rollout again"
            ) from None
        incoming.remove(store, rollout.file)
        journal.clear(run_dir)
        return f"the server is gone; when it is started again, it serves {name} {old}"
    incoming.remove(store, rollout.file)
    journal.clear(run_dir)
    said = f"rolled back: {name} {old} is in service, {new} is gone"
    return f"{said}\n{trouble}" if trouble else said


def canary_off(running: Running, name: str) -> str:
    """Returns: why it could not be switched off, and what to do; empty if it was.

    No reason to leave a bad version there: once that is gone, the front gives its requests to the default.
    """
    try:
        canary.clear_canary(running, name)
    except (SegserveError, OSError) as error:
        return (
            f"the front could not be told that {name} has no canary any more ({error}); when that is mended: "
            f"`python -m deploy.front canary {name} --off`"
        )
    return ""


def leaving(run_dir: Path, rollout: Journal, keep: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """What has to go once the new version stays, as a Journal has it: `going` and `files`.

    keep: the old version stays warm. Only one does, so the one that was kept until now goes. One of the same number as
    the new one did not load, or there would be no new one: only its file goes.
    """
    before = served.load(run_dir).get(rollout.name, Served(rollout.old, {}))
    going = () if keep else (rollout.old,)
    if before.kept and before.kept not in (rollout.new, rollout.old):
        going = (before.kept, *going)
    gone = (*going, rollout.new)
    return going, {version: file for version, file in before.files.items() if version in gone}


def retire(running: Running, management: Management, rollout: Journal) -> str:
    """The versions that go answer what they have, and go. One that clients keep asking for by name stays."""
    run_dir, store, name = Path(running.run_dir), Path(running.model_store), rollout.name
    commit(run_dir, management, rollout)
    for file in (file for version, file in rollout.files.items() if version not in rollout.going):
        incoming.remove(store, file)
    said = [f"{name} {rollout.new} is in service"]
    for version in rollout.going:
        state = management.version(name, version)
        if state is not None:
            if not management.drain(name, version, DRAIN_TIMEOUT_S):
                said.append(f"{version} still gets requests that name it, so it stays")
                continue
            commit(run_dir, management, rollout, without=version)
            management.unregister(name, version)
        if file := rollout.files.get(version, state.file if state else ""):
            incoming.remove(store, file)
        said.append(f"{version} is gone")
    journal.clear(run_dir)
    return "; ".join(said)


def left_over(running: Running, management: Management, rollout: Journal) -> str:
    """What is the case where `retire` did not come to its end, in words; the journal stays, for the next rollout.

    Raises: ServerError if the server does not answer.
    """
    name, run_dir = rollout.name, Path(running.run_dir)
    rollout.save(run_dir)  # file and memory agree, wherever it was interrupted
    try:
        commit(run_dir, management, rollout)
        left = [version for version in rollout.going if management.version(name, version) is not None]
    except ServerError as error:
        models = ", ".join(f"{known} {model.default}" for known, model in served.load(run_dir).items())
        raise ServerError(
            f"{name} {rollout.new} was in service when the server stopped answering ({error}); when it is started "
            f"again, it serves {models}"
        ) from None
    if not left:
        return f"{name} {rollout.new} is in service; the next rollout clears up"
    back = f"; `python -m deploy.rollback` goes back to {rollout.old}" if rollout.old in left else ""
    return f"{name} {rollout.new} is in service; {' and '.join(left)} will go with the next rollout{back}"


def commit(run_dir: Path, management: Management, rollout: Journal, without: str = "") -> None:
    """Write down that the new version is the default, and what else there is, for the next start of the server.

    A spare version that did not load is not there, but the next start tries it again.
    """
    before = served.load(run_dir).get(rollout.name, Served(rollout.new, {}))
    files = {version: file for version, file in before.files.items() if version not in rollout.going}
    files |= {state.version: state.file for state in management.versions(rollout.name)}
    stay = {version: file for version, file in files.items() if version not in (rollout.new, without)}
    served.commit(run_dir, rollout, stay)


def recover(running: Running, management: Management, say: Callable[[str], None]) -> None:
    """Clear up after a rollout that was killed."""
    left = journal.load(Path(running.run_dir))
    if left is None:
        return
    say(f"the rollout of {left.name} {left.new} was cut off; clearing up after it")
    # a server that ended before it was written down that the new version stays came back with the old one
    stays = left.committed and management.version(left.name, left.new) is not None
    with contextlib.suppress(FileNotFoundError):
        say((retire if stays else undo)(running, management, left))
