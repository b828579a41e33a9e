"""A Segmenter whose engine is a few lines of numpy: fast, deterministic, and right by eye."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export import build, cases, variants
from export.fold import fold
from export.served_net import ServedNet
from export.to_onnx import to_onnx
from segserve import cli
from segserve.errors import SegserveError
from segserve.segmenter import Segmenter
from segserve.spec import SPEC_FILE, ModelSpec, sha256_file
from tests import tiny_pspnet
from tests.conftest import made_once
from tests.integration.painted import paint
from tests.specs import make_spec
from training.checkpoint import load_model
from training.rooms import render

RunHere = Callable[..., tuple[int, str, str]]
rendered_once = lru_cache(render)


class ColourEngine:
    """Finds what is red (class 0), green (1) and blue (2). Keeps the size of every batch it was called with.

    `fails` is asked for each batch whether the engine breaks down on it, with `reason` as what it says.
    """

    name = "numpy"
    device = "cpu"
    provider = "none"
    precision = "fp32"

    def __init__(self, fails: Callable[[NDArray[np.uint8]], bool] = lambda _: False) -> None:
        self.fails = fails
        self.reason = "CUDA error: an illegal memory access was encountered"
        self.batch_sizes: list[int] = []

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3) → float32 (N, 3, H / 8, W / 8)."""
        self.batch_sizes.append(len(images_nhwc))
        if self.fails(images_nhwc):
            raise RuntimeError(self.reason)
        n, height, width, _ = images_nhwc.shape
        blocks = images_nhwc.reshape(n, height // 8, 8, width // 8, 8, 3)
        logits_nchw: NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32).transpose(0, 3, 1, 2)
        return logits_nchw


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunHere:
    """A command in this process, given its options, its main and its arguments: exit code, stdout, stderr.

    An uncaught exception fails the test.
    """

    def call(
        config_type: type, main: Callable[[Any], int | None], *arguments: object
    ) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.run(config_type, main)
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def good_build(tiny_build: Path, tmp_path: Path) -> Path:
    """A copy of a good build, to spoil."""
    return Path(shutil.copytree(tiny_build, tmp_path / "build"))


@pytest.fixture
def colour_spec() -> ModelSpec:
    """A model of three classes with an input of 64 x 64."""
    return make_spec(name="colours", version="3.1")


@pytest.fixture
def colour_engine() -> ColourEngine:
    """The engine alone, to look into or to make fail."""
    return ColourEngine()


@pytest.fixture
def colour_segmenter(colour_spec: ModelSpec, colour_engine: ColourEngine) -> Segmenter:
    """A Segmenter around `colour_engine`."""
    return Segmenter(colour_spec, colour_engine)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tiny_build`."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            know_tiny(patch)
            tiny_pspnet.save(folder / "tiny.safetensors")
            build.main(build.BuildConfig(folder / "tiny.safetensors", folder, name="tiny", version="1.2"))

    return made_once(tmp_path_factory, "tiny", make)


@pytest.fixture
def tiny_build(built_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that export.build wrote from a tiny model, its checkpoint tiny.safetensors beside the results.

    Its preset is known for as long as the test lasts.
    """
    know_tiny(monkeypatch)
    return built_once


def know_tiny(patch: pytest.MonkeyPatch) -> None:
    """Its preset; and the rooms that every comparison looks at are rendered once."""
    tiny_pspnet.register(patch)
    patch.setattr(cases, "render", rendered_once)


@pytest.fixture(scope="session")
def demo_onnx(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """The demo model as model.onnx, folded; for reading only. Of `make package`, if that is of this very checkpoint."""
    checkpoint, packed = repo_root / "model_store/demo/rooms.safetensors", repo_root / "build/rooms"
    with contextlib.suppress(SegserveError):
        spec = ModelSpec.load(packed / SPEC_FILE)
        digests = {artefact.file: artefact.sha256 for artefact in spec.artefacts}
        file = packed / "model.onnx"
        if spec.checkpoint_sha256 == sha256_file(checkpoint) and digests.get(file.name) == sha256_file(file):
            return file

    def make(folder: Path) -> None:
        net, meta = load_model(checkpoint)
        to_onnx(ServedNet(fold(net), meta.mean, meta.std).eval(), folder / "model.onnx")

    return made_once(tmp_path_factory, "demo", make) / "model.onnx"


def build_quickly(patch: pytest.MonkeyPatch, built_once: Path) -> None:
    """tiny.safetensors gets the ONNX file that is there, and is compared on small pictures."""
    patch.setattr(variants, "to_onnx", lambda _, path: shutil.copyfile(built_once / "model.onnx", path))
    compare_small(patch)


def compare_small(patch: pytest.MonkeyPatch) -> None:
    """The comparison is whole, of smaller pictures than usual, to save time."""
    patch.setattr(cases, "PHOTOS", ((97, 131, 1), (120, 100, 6)))
    patch.setattr(cases, "INPUT_SIZES", tuple((33 + 8 * n, 41 + 7 * n) for n in range(12)))


@pytest.fixture
def quickly(built_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `build_quickly` has it, for one test."""
    build_quickly(monkeypatch, built_once)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description of a tiny dataset that can be learnt."""
    return paint(tmp_path_factory.mktemp("data") / "painted")
