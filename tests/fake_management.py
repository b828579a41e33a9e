"""A management API without a server: versions of `rooms` in a dictionary, and what was asked for, in order."""

from __future__ import annotations

import os
from pathlib import Path

from deploy import processes, run_folder, served
from deploy.management import Management, ModelState
from deploy.run_folder import Running
from deploy.served import Served
from segserve.errors import ServerError
from tests.specs import make_spec

OLD_FILE, NEW_FILE = "rooms-1.0-0000001d", "rooms-2.0-0000002e"


class FakeManagement(Management):
    """files: version → file in the model store, the default first. Workers are READY, but for those in `dying`."""

    def __init__(self, files: dict[str, str], dying: tuple[str, ...] = ()) -> None:
        self.files, self.dying, self.default = dict(files), dying, next(iter(files))
        self.asked: list[str] = []

    def __exit__(self, *_: object) -> None: ...

    def names(self) -> list[str]:
        return ["rooms"]

    def versions(self, name: str) -> list[ModelState]:
        return [
            ModelState(name, version, int(version not in self.dying), 1, file=file)
            for version, file in self.files.items()
            if name == "rooms"
        ]

    def default_version(self, name: str) -> str:
        return self.default

    def set_default(self, name: str, version: str) -> None:
        self.asked.append(f"default {version}")
        self.default = version

    def drain(self, name: str, version: str, timeout_s: float, settle_s: float = 2.0) -> bool:
        self.asked.append(f"drain {version}")
        return True

    def unregister(self, name: str, version: str) -> None:
        """Raises: ServerError for the default beside others, as TorchServe does."""
        self.asked.append(f"unregister {version}")
        if version == self.default and len(self.files) > 1:
            raise ServerError(f"403 Cannot remove default version for model {name}")
        self.files.pop(version, None)


def running_in(folder: Path) -> Running:
    """A server with FOLDER/run and FOLDER/store, both made, whose process is the one of the tests."""
    run_dir, store, me = folder / "run", folder / "store", os.getpid()
    for made in (run_dir, store):
        made.mkdir()
    socket = run_dir / "management.sock"
    socket.touch()
    running = Running(
        me, processes.identity(me), "http://127.0.0.1:1", "http://127.0.0.1:2", str(socket), ("rooms",), "none",
        str(run_dir), str(run_dir / "tmp"), str(run_dir / "logs"), str(store),
    )  # fmt: skip
    run_folder.save(running)
    return running


def unpacked(running: Running, *files: str) -> None:
    """Versions in the model store, each a folder with the spec of 1.0."""
    for file in files:
        (Path(running.model_store) / file).mkdir()
        make_spec(version="1.0").save(Path(running.model_store) / file / "model_spec.json")


def folders(running: Running) -> list[str]:
    """What the model store has."""
    return sorted(path.name for path in Path(running.model_store).iterdir())


def between_versions(folder: Path) -> Running:
    """It serves 1.0, which an earlier rollout unpacked; 2.0 is unpacked too."""
    running = running_in(folder)
    unpacked(running, OLD_FILE, NEW_FILE)
    served.save(Path(running.run_dir), {"rooms": Served("1.0", {"1.0": OLD_FILE})})
    return running
