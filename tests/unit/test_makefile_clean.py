"""`make clean`: what it removes, and what it leaves to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segserve.package import HANDLER_FILE
from tests.make_project import Project

SERVED_TOO = ("demo", "kitchens", "kitchens-1.0-0a1b2c3d")
"""Named by run/models.json, too."""
STAYS = (
    "model_store/demo/segmentation_handler.py",
    "model_store/mine/notes.txt",
    "model_store/kitchens.mar",
    "model_store/kitchens/segmentation_handler.py",  # unpacked by hand
    "model_store/kitchens-1.0-0a1b2c3d/model_spec.json",  # what export.build --out made
    "model_store/rooms-2.0-55667788/segmentation_handler.py",  # of a server with another run folder
    "model_store/rooms-2.0-1a2b3c4/segmentation_handler.py",  # the beginning of a name that is ours
)


@pytest.fixture
def packaged(tmp_path: Path, repo_root: Path) -> Project:
    """With what `make package` and `make serve` made."""
    made = Project(tmp_path, repo_root)
    made.touch("model_store/rooms.mar", 300)
    made.touch("out/room.jpg", 300)
    return made


def test_clean_without_a_run_folder_removes_no_package(packaged: Project) -> None:
    for name in STAYS:
        packaged.touch(name, 100)
    assert packaged.make("clean").returncode == 0
    assert all((packaged.folder / name).exists() for name in STAYS)


def test_clean_stops_the_server_and_keeps_what_took_long(packaged: Project) -> None:
    ours = ("model_store/rooms-2.0-1a2b3c4d", "model_store/my rooms-2.1-9f8e7d6c")
    for name in ("run/server.json", "run/front/front.json", "runs/mine/best.safetensors", "build/x",
                 "segserve/__pycache__/x.pyc", "model_store/.rooms-3.0-1a2b3c4d.partial/model.onnx",
                 *(f"{one}/{HANDLER_FILE}" for one in ours), *STAYS):  # fmt: skip
        packaged.touch(name, 100)
    files = {number: Path(name).name for number, name in enumerate([*ours, *SERVED_TOO])}
    (packaged.folder / "run/models.json").write_text(
        json.dumps({"rooms": {"default": "2.0", "files": files}})
    )
    assert packaged.make("clean").returncode == 0
    assert packaged.calls() == ["-m deploy.front stop", "-m deploy.server stop"]
    gone = ("run", "build", "out", "model_store/rooms.mar", "segserve/__pycache__",
            *ours, "model_store/.rooms-3.0-1a2b3c4d.partial")  # fmt: skip
    kept = ("runs/mine/best.safetensors", ".venv/.ready", "model_store/demo/rooms.safetensors", *STAYS)
    assert not any((packaged.folder / name).exists() for name in gone)
    assert all((packaged.folder / name).exists() for name in kept)
