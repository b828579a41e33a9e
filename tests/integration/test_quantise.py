"""int8 by NNCF: layers that do not bear it go back to float, and only those."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from export import calibration
from export import quantise as quantise_module
from export.quantise import keep_float, logits_of, quantise, quantised_layers, signed
from segserve.errors import UsageError
from training.rooms import render

SIZE = (64, 80)


@pytest.fixture(scope="module")
def fp32(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(demo_onnx, tmp_path_factory.mktemp("quantise")))


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return [render(seed, *SIZE)[0][np.newaxis] for seed in range(8)]


@pytest.fixture(scope="module")
def quantised(fp32: Path, images: list[NDArray[np.uint8]]) -> tuple[Path, str, str]:
    """The file, the note on it, what was written to standard output meanwhile."""
    int8 = fp32.with_name("model.int8.onnx")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        note = quantise(fp32, int8, [images], lambda _: None)
    return int8, note, printed.getvalue()


def test_what_does_not_bear_int8_stays_in_float(
    fp32: Path, images: list[NDArray[np.uint8]], quantised: tuple[Path, str, str]
) -> None:
    int8, note, printed = quantised
    assert printed == ""  # NNCF's bars would spoil JSON
    source, written = onnx.load(str(fp32)), onnx.load(str(int8))
    in_int8 = len(quantised_layers(written))
    assert in_int8 > 0
    assert note.startswith(f"{in_int8} of ")
    agreement = [
        (a.argmax(1) == b.argmax(1)).mean()
        for a, b in zip(logits_of(written, images), logits_of(source, images), strict=True)
    ]
    assert np.mean(agreement) > 0.9
    # all layers in float: the graph that it came from
    bare = keep_float(source, written, quantised_layers(written))
    assert quantised_layers(bare) == []
    np.testing.assert_allclose(logits_of(bare, images[:1])[0], logits_of(source, images[:1])[0], atol=1e-4)


def test_each_kind_of_image_is_judged_by_itself(
    fp32: Path, images: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of many blank photos and a few rooms would say that nearly all is well."""
    monkeypatch.setattr(quantise_module, "MIN_AGREEMENT", 0.0)  # take the first attempt
    rooms = images
    blank = [np.full((1, *SIZE, 3), 127, np.uint8)] * 24
    judged: list[int] = []

    def agreement(_: object, expected: Sequence[object]) -> float:
        judged.append(len(expected))
        return 0.5 if len(expected) == len(rooms[::4]) else 1.0

    monkeypatch.setattr(quantise_module, "_agreement", agreement)
    said = list[str]()
    quantise(fp32, fp32.with_name("kinds.int8.onnx"), [blank, rooms], said.append)
    assert judged == [len(blank[::4]), len(rooms[::4])]
    assert said[-1].endswith(" in float: 50.00 % agree")


def test_calibration_has_the_photos_and_rendered_rooms(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.full((30, 40, 3), 50 * number, np.uint8)).save(tmp_path / f"{number}.png")
    photos, rooms = calibration.images(tmp_path, SIZE)
    assert [photo[0, 32, 40, 0] for photo in photos] == [0, 50, 100]
    assert {image.shape for image in (*photos, *rooms)} == {(1, *SIZE, 3)}
    (alone,) = calibration.images(None, SIZE)
    assert 0 < len(rooms) < len(alone)  # fewer where there are photos
    for one, other in zip(alone[: len(rooms)], rooms, strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "9.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"--calibration: 9\.png: "):
        calibration.images(tmp_path, SIZE)


def test_tensorrt_gets_no_unsigned_integers(fp32: Path, quantised: tuple[Path, str, str]) -> None:
    before = onnx.load(str(quantised[0]))
    after = onnx.load(str(signed(quantised[0], fp32.with_name("signed.onnx"))))
    unsigned = onnx.TensorProto.UINT8
    assert any(tensor.data_type == unsigned for tensor in before.graph.initializer)
    assert not any(tensor.data_type == unsigned for tensor in after.graph.initializer)
    image = render(1, *SIZE)[0][np.newaxis]
    errors = np.abs(logits_of(after, [image])[0] - logits_of(before, [image])[0])
    assert errors.mean() < 0.5 * logits_of(before, [image])[0].std()
