"""RUN/models.json: which versions a server shall have and which is the default, kept by us.

TorchServe forgets swaps when it restarts (with --ts-config), or lets an old snapshot override its configuration
(without). So what a rollout ended with is written here, and `deploy.server start` starts with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.journal import Journal
from deploy.management import Management
from deploy.run_folder import not_ours, write_json
from segserve.errors import ServerError

SERVED_FILE = "models.json"
DEMO_MODELS = ("rooms=rooms.mar",)


@dataclass(frozen=True)
class Served:
    """One model: version → file or folder in the model store, the default version, and the one kept warm, if any."""

    default: str
    files: dict[str, str]
    kept: str | None = None

    def models(self, name: str) -> tuple[str, ...]:
        """As `--models` has it: NAME=FILE, the default first, because TorchServe makes the first the default."""
        ordered = sorted(self.files, key=lambda version: version != self.default)
        return tuple(f"{name}={self.files[version]}" for version in ordered)


def load(run_dir: Path) -> dict[str, Served]:
    """By model name; empty if nothing was served from that folder yet.

    Raises: ServerError for a torn file, UsageError for a folder of another user's.
    """
    path = run_dir / SERVED_FILE
    try:
        document = json.loads(path.read_text())
        return {name: Served(**entry) for name, entry in document.items()}
    except FileNotFoundError:
        return {}
    except PermissionError:
        raise not_ours(path) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ServerError(
            f"{path} cannot be read ({error}); remove it and start with --models NAME=FILE"
        ) from None


@dataclass(frozen=True)
class Wanted:
    """What a start is for, NAME=FILE each, of several versions of a model the default first.

    `spare`: the versions that it does without if it must.
    """

    models: tuple[str, ...]
    spare: frozenset[str] = frozenset()


def wanted(run_dir: Path, models: tuple[str, ...]) -> Wanted:
    """What `--models` says, all of it; without it what was served from that folder last, or the demo model.

    Of what was served last only the defaults are needed: whoever starts a server again wants its service back, though
    the version that was kept for a rollback is damaged. A default is never replaced by another version.
    """
    if models:
        return Wanted(models)
    last = [model.models(name) for name, model in load(run_dir).items()]
    spare = frozenset(model for versions in last for model in versions[1:])
    return Wanted(tuple(model for versions in last for model in versions) or DEMO_MODELS, spare)


def save(run_dir: Path, served: Mapping[str, Served]) -> None:
    """In one step, so that whoever is interrupted leaves the old state or the new one."""
    write_json(run_dir / SERVED_FILE, {name: dataclasses.asdict(model) for name, model in served.items()})


def remember(run_dir: Path, management: Management) -> None:
    """Write down what a server serves now: all versions that it has. What was kept warm still is, if it is there."""
    before, now = load(run_dir), {}
    for name in management.names():
        files = {state.version: state.file for state in management.versions(name)}
        kept = before[name].kept if name in before else None
        default = management.default_version(name)
        now[name] = Served(default, files, kept if kept in files and kept != default else None)
    save(run_dir, now)


def commit(run_dir: Path, rollout: Journal, files: Mapping[str, str]) -> None:
    """The new version of a rollout is the default from now on; `files` has the others that stay."""
    models = load(run_dir)
    kept = rollout.old if rollout.old in files else None
    models[rollout.name] = Served(rollout.new, {rollout.new: rollout.file, **files}, kept)
    save(run_dir, models)
