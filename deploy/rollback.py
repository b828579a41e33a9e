"""Back to the version that a rollout kept warm (`--keep`), at once.

    python -m deploy.rollback                   # the server of ./run, its only kept version
    python -m deploy.rollback --model rooms --run-dir run

The version that was left stays warm in its turn: the same command goes forward again. So it does where a rollout was
interrupted before it had retired the old version; others that had to go with that one go now. One that was killed
before its version was to stay is undone, and no more, as that is the way back already. Exit code: 0 done; 1 if such a
rollout could not be undone; 2 if nothing was kept or the kept version is not READY, and where it is in service, but
that could not be written down (a full disk), the front's canary could not be switched off, or the server went away when
all but that had been done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy import journal, served
from deploy.journal import Journal
from deploy.management import Management
from deploy.run_folder import Running, require_running
from deploy.served import Served
from deploy.undo import canary_off, commit, left_over, recover, retire
from segserve.cli import command, run
from segserve.errors import ServerError, UsageError


@dataclass(frozen=True)
class RollbackConfig:
    """Which model of which server."""

    model: str | None = None
    """Its name; not needed where only one model has a kept version."""
    run_dir: Path = Path("run")
    """Folder of the server."""


def main(config: RollbackConfig) -> int:
    """Exit code 0."""
    running = require_running(config.run_dir)
    run_dir = Path(running.run_dir)
    with journal.exclusive(run_dir), Management.of(running) as management:
        left = journal.load(run_dir)
        if left is not None and not _stays(left, management, run_dir):
            recover(running, management, print)
            if config.model in (None, left.name):
                return 0
            left = None
        models = served.load(run_dir)
        name = _name(config.model, models)
        _go_back(running, management, models, name, left if left and left.name == name else None)
    return 0


def _go_back(
    running: Running, management: Management, models: dict[str, Served], name: str, left: Journal | None
) -> None:
    """left: the rollout of that model whose end is still to be done. Raises: ServerError, as the exit code 2 above."""
    run_dir, before = Path(running.run_dir), models[name]
    kept = before.kept
    assert kept is not None
    state = management.version(name, kept)
    if state is None or not state.ready:
        raise ServerError(f"{name} {kept} was kept, but has no READY worker; see `python -m deploy.status`")
    if left is not None:
        journal.clear(run_dir)  # the old version is not to be retired after all
    management.set_default(name, kept)
    unwritten = _write_down(run_dir, models, name)
    trouble = canary_off(running, name)
    if left is not None:
        rest = _rest(left, kept, before)
        if not unwritten:
            _end(running, management, rest)
        elif rest.going:
            unwritten += f"; {', '.join(rest.going)} stay loaded until a start with --models leaves them out"
    if unwritten or trouble:
        raise ServerError("\n".join(filter(None, (unwritten, trouble))))


def _stays(left: Journal, management: Management, run_dir: Path) -> bool:
    """Whether the version of a rollout that was cut off is in service for good; then models.json says so too."""
    known = served.load(run_dir).get(left.name)
    if left.committed and not (known and known.default == left.new):
        if management.version(left.name, left.new) is None:  # the server was started again, with the old one
            return False
        commit(run_dir, management, left)
    return left.committed


def _write_down(run_dir: Path, models: dict[str, Served], name: str) -> str:
    """That the kept version is the default now. Returns: why it could not be, and what to do; empty if it was.

    No reason to go back: clients are on the right version already.
    """
    before = models[name]
    assert before.kept is not None
    try:
        served.save(run_dir, {**models, name: Served(before.kept, before.files, before.default)})
    except OSError as error:
        again = command("deploy.rollback", "--run-dir", run_dir, "--model", name)
        return (
            f"{name} {before.kept} is in service now, but a restart would bring back {before.default}: "
            f"{run_dir / served.SERVED_FILE} could not be written ({error.strerror}). Free space and run {again} again"
        )
    print(f"{name} {before.kept} is in service; {before.default} is kept warm")
    return ""


def _rest(left: Journal, kept: str, before: Served) -> Journal:
    """What the interrupted rollout `left` had still to do, as that of the version that was gone back to."""
    files = {version: file for version, file in left.files.items() if version != kept}
    going = tuple(version for version in left.going if version != kept)
    return Journal(
        left.name, kept, before.files[kept], before.default, reached=True, committed=True, going=going, files=files
    )  # fmt: skip


def _end(running: Running, management: Management, rest: Journal) -> None:
    """Do it, or leave it to the next rollout. Raises: ServerError as `left_over`."""
    if not (rest.going or rest.files):
        return
    rest.save(Path(running.run_dir))
    try:
        print(retire(running, management, rest))
    except ServerError as error:
        print(f"{error}\n{left_over(running, management, rest)}")


def _name(wanted: str | None, models: dict[str, Served]) -> str:
    kept = [name for name, model in models.items() if model.kept is not None]
    if wanted in kept:
        return str(wanted)
    if wanted is None and len(kept) == 1:
        return kept[0]
    have = ", ".join(kept) or "none"
    raise UsageError(
        f"which model? {wanted or 'no --model'} was given, a version was kept of: {have}. rollout --keep keeps one"
    )


if __name__ == "__main__":
    run(RollbackConfig, main)
