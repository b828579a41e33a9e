"""RUN/rollout.json: what a rollout has changed so far, so that one that was killed is cleared up by the next.

Written before each change, removed when nothing is left to undo. One rollout at a time holds RUN/.rollout.lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.run_folder import write_json
from segserve.errors import ServerError, UsageError

JOURNAL_FILE = "rollout.json"
LOCK_FILE = ".rollout.lock"


@dataclass(frozen=True)
class Journal:
    """A rollout of `new`, unpacked as `file` in the model store, in the place of `old`.

    `reached`: clients may have reached the new version. `committed`: nobody goes back any more, and as soon as
    models.json says so too a restart comes back with the new version. Then the versions in `going` have to go, and the
    files in the model store that `files` says they were registered from, with those of versions that did not load.
    """

    name: str
    new: str
    file: str
    old: str
    reached: bool = False
    committed: bool = False
    going: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def save(self, run_dir: Path) -> None:
        """In one step."""
        write_json(run_dir / JOURNAL_FILE, dataclasses.asdict(self))


def load(run_dir: Path) -> Journal | None:
    """The rollout that is on its way, or was when its process was killed. Raises: ServerError for a torn file."""
    path = run_dir / JOURNAL_FILE
    try:
        document = json.loads(path.read_text())
        return Journal(**{**document, "going": tuple(document["going"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ServerError(
            f"{path} cannot be read ({error}); see `python -m deploy.status`, then remove it"
        ) from None


def clear(run_dir: Path) -> None:
    """Nothing is left to undo."""
    (run_dir / JOURNAL_FILE).unlink(missing_ok=True)


def at_work(run_dir: Path) -> bool:
    """Whether a rollout or rollback of that server is going on now."""
    try:
        with exclusive(run_dir):
            return False
    except UsageError:
        return True


@contextlib.contextmanager
def exclusive(run_dir: Path) -> Iterator[None]:
    """Raises: UsageError while another rollout or rollback of that server is at work."""
    with (run_dir / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another rollout or rollback of the server in {run_dir} is at work; wait for it"
            ) from None
        yield
