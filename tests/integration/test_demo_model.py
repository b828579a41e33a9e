"""The demo model as it is committed and as `make package` packs it: the one that `make serve` shows to people."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.photos import photo
from segserve.labels import ROOM_CLASSES
from segserve.segmenter import Segmenter
from segserve.spec import sha256_file
from training.rooms import render

SIZES = ((480, 640), (640, 480), (301, 403), (720, 1280))


@pytest.fixture(scope="module")
def packaged(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """What is in model_store/rooms.mar."""
    mar = repo_root / "model_store" / "rooms.mar"
    if not mar.exists():
        pytest.skip("needs model_store/rooms.mar: make package (make test does it)")
    folder = tmp_path_factory.mktemp("rooms")
    with zipfile.ZipFile(mar) as file:
        file.extractall(folder)
    return Segmenter.load(folder, threads=1)


def test_checkpoint_is_small(repo_root: Path) -> None:
    assert (repo_root / "model_store/demo/rooms.safetensors").stat().st_size <= 12e6


def test_package_is_of_the_committed_checkpoint_and_proven(repo_root: Path, packaged: Segmenter) -> None:
    spec = packaged.spec
    assert spec.checkpoint_sha256 == sha256_file(repo_root / "model_store/demo/rooms.safetensors")
    assert spec.classes == ROOM_CLASSES
    assert spec.parity["passed"] is True
    for engine in ("onnx", "torchscript"):
        figures = spec.parity[engine]
        assert figures["label_agreement"] >= 0.9999
        assert figures["max_abs_error"] <= 1e-4


def test_it_finds_walls_and_floors_of_rooms_that_it_has_never_seen(packaged: Segmenter) -> None:
    right = wall_or_floor = 0
    for seed, (height, width) in enumerate(SIZES, start=9000):
        labels = packaged.segment(photo(seed, height, width).jpeg)
        _, truth = render(seed, height, width)
        surface = truth <= ROOM_CLASSES.index("floor")
        right += int(np.count_nonzero((labels == truth) & surface))
        wall_or_floor += int(np.count_nonzero(surface))
    assert right / wall_or_floor > 0.75, "chance is far below; the model was trained to better"
