"""Several looks at a photo: they cover it, they fall together where they must, and one look is what is served."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from segserve.errors import UsageError
from segserve.labels import palette
from segserve.segmenter import Segmenter
from segserve.spec import Artefact, InputSpec, ModelSpec
from training.looks import Look, Ways, fuse, look_at, windows

CLASSES = ("dark", "bright", "red")


class Colours:
    """An engine that judges each cell of 8 x 8 pixels by its own mean colour: mirrored photo, mirrored answer."""

    name, precision, device, provider = "colours", "fp32", "cpu", "test"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.shapes.append(images_nhwc.shape)
        number, height, width, _ = images_nhwc.shape
        cells = images_nhwc.reshape(number, height // 8, 8, width // 8, 8, 3).mean(axis=(2, 4)) / 255
        light, red = cells.mean(axis=-1), cells[..., 0] - cells[..., 1:].mean(axis=-1)
        return np.stack([4 * (0.5 - light), 4 * (light - 0.5), 8 * red - 1], axis=1).astype(np.float32)


def segmenter(engine: Colours) -> Segmenter:
    colours = tuple((int(r), int(g), int(b)) for r, g, b in palette(3))
    inputs = InputSpec(48, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    artefact = Artefact("model.onnx", "onnx", "fp32", "0" * 64, 1)
    return Segmenter(
        ModelSpec("m", "1.0", "none", CLASSES, colours, 255, inputs, 8, False, (artefact,), "onnx", "0" * 64, {}, {}),
        engine,
    )  # fmt: skip


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    """Dark on the left, bright on the right, a red square in a corner; 96 x 128."""
    made = np.zeros((96, 128, 3), np.uint8)
    made[:, 64:] = 230
    made[:32, :32] = (220, 10, 10)
    return made


def test_one_look_is_what_is_served(photo: NDArray[np.uint8]) -> None:
    model = segmenter(Colours())
    (look,) = look_at(photo, model, Ways())
    mask, confidence = fuse([look], 96, 128, align_corners=False)
    served = model.labels(look.logits_chw, Look(look.logits_chw, look.geometry))  # type: ignore[arg-type]  # has a geometry
    np.testing.assert_array_equal(mask, served)
    assert set(np.unique(mask)) == {0, 1, 2}
    cell = look.logits_chw[:, 5, 7].astype(np.float64)  # far from any edge: nothing to interpolate with
    expected = np.exp(cell).max() / np.exp(cell).sum()
    assert confidence[92, 124] == pytest.approx(expected, rel=1e-5)


def test_strips_make_no_difference(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    looks = list(look_at(photo, segmenter(Colours()), Ways(scales=(1.0, 2.0), flip=True, sliding=True)))
    whole = fuse(looks, 96, 128, align_corners=True)
    monkeypatch.setattr("training.looks.STRIP_VALUES", 3 * 128 * 7)
    in_strips = fuse(looks, 96, 128, align_corners=True)
    np.testing.assert_array_equal(whole[0], in_strips[0])
    np.testing.assert_allclose(whole[1], in_strips[1], atol=1e-6)


def test_a_mirrored_look_comes_back_the_right_way_round(photo: NDArray[np.uint8]) -> None:
    plain, mirrored = look_at(photo, segmenter(Colours()), Ways(flip=True))
    np.testing.assert_allclose(plain.logits_chw, mirrored.logits_chw, atol=1e-5)
    assert np.abs(plain.logits_chw - plain.logits_chw[..., ::-1]).max() > 1  # or the test could not fail


def test_scales_change_the_input_and_windows_keep_it(photo: NDArray[np.uint8]) -> None:
    engine = Colours()
    list(look_at(photo, segmenter(engine), Ways(scales=(0.5, 1.0, 1.5))))
    assert [shape[1:3] for shape in engine.shapes] == [(24, 32), (48, 64), (72, 96)]
    engine.shapes.clear()
    looks = list(look_at(photo, segmenter(engine), Ways(scales=(2.0,), sliding=True)))
    assert {shape[1:3] for shape in engine.shapes} == {(48, 64)}
    assert len(looks) == 9
    mask, _ = fuse(looks, 96, 128, align_corners=False)
    truth = np.where(np.arange(128) >= 64, 1, 0) * np.ones((96, 1), int)
    truth[:32, :32] = 2
    assert (mask == truth).mean() > 0.97  # edges of cells apart


@pytest.mark.parametrize("size", [(96, 128), (500, 300), (97, 1001), (20, 20), (1, 1), (2, 1)])
@pytest.mark.parametrize("scale", [1.25, 2.0, 3.0])
def test_windows_cover_the_photo_and_overlap(size: tuple[int, int], scale: float) -> None:
    covered = np.zeros(size, np.int64)
    parts = windows(*size, (round(48 * scale), round(64 * scale)), scale)
    for top, left, bottom, right in parts:
        assert 0 <= top < bottom <= size[0]
        assert 0 <= left < right <= size[1]
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    columns = sorted({(left, right) for _, left, _, right in parts})
    for (left, right), (following, _) in pairwise(columns):
        assert right - following >= 0.3 * (right - left)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, 9.0)])
def test_impossible_scales_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="--scales"):
        Ways(scales=scales)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 1.5])
def test_sizes_keep_the_last_cell_on_the_last_pixel(scale: float) -> None:
    """An input of 8 n + 1 pixels, as align_corners wants it: cell j is pixel 8 j at every scale."""

    def ramp(images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class 1 is as likely as the pixel under the cell is bright."""
        light = images_nhwc[:, ::8, ::8, 0].astype(np.float32) / 255
        return np.log(np.stack([1 - light, light, np.full_like(light, 1e-6)], axis=1) + 1e-6)

    inputs = InputSpec(97, 129, (0.0,) * 3, (1.0,) * 3)
    model = segmenter(Colours())
    model = Segmenter(replace(model.spec, input=inputs, align_corners=True), ramp)  # type: ignore[arg-type]
    made = np.zeros((97, 129, 3), np.uint8)
    made[:] = np.linspace(40, 215, 129).round()[:, None]
    _, confidence = fuse(list(look_at(made, model, Ways(scales=(scale,)))), 97, 129, align_corners=True)
    light = made[..., 0] / 255
    np.testing.assert_allclose(confidence, np.maximum(light, 1 - light), atol=0.02)
