"""How photos lie in one or several input shapes, and what is counted of it."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import input_shapes
from benchmarks.input_shapes import measure, place, policies
from segserve.engines import Engine
from segserve.labels import ROOM_CLASSES
from segserve.resize import PAD_VALUE
from segserve.segmenter import Segmenter
from tests.specs import make_spec


@pytest.mark.parametrize(
    ("policy", "photo", "input_shape", "content"),
    [
        ("letterbox", (640, 480), (240, 320), (240, 180)),
        ("stretch", (640, 480), (240, 320), (240, 320)),
        ("3 shapes", (640, 480), (320, 240), (320, 240)),
        ("3 shapes", (500, 510), (280, 280), (280, 280)),
        ("3 shapes", (400, 800), (240, 320), (240, 320)),
        ("5 shapes", (400, 800), (208, 368), (208, 368)),
        ("5 shapes", (852, 480), (368, 208), (368, 208)),
    ],
)
def test_where_photos_lie(
    policy: str, photo: tuple[int, int], input_shape: tuple[int, int], content: tuple[int, int]
) -> None:
    placed = policies(240, 320)[policy](*photo)
    assert (placed.photo_height, placed.photo_width) == photo
    assert (placed.input_height, placed.input_width) == input_shape
    assert (placed.content_height, placed.content_width) == content


def test_bars_are_grey_and_only_bars() -> None:
    photo = np.full((640, 480, 3), 9, np.uint8)
    boxed = place(photo, policies(240, 320)["letterbox"](640, 480))
    assert (boxed[:, 70:250] == 9).all()
    assert (boxed[:, :70] == PAD_VALUE).all()
    assert (boxed[:, 250:] == PAD_VALUE).all()
    assert (place(photo, policies(240, 320)["stretch"](640, 480)) == 9).all()


def test_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows a room's two halves but, of a photo with bars, calls everything wall."""

    def render(seed: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        label = np.zeros((height, width), np.uint8)
        label[:, width // 2 :] = 1
        return np.full((height, width, 3), 200, np.uint8), label

    def engine(images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        count, height, width, _ = images_nhwc.shape
        logits = np.zeros((count, len(ROOM_CLASSES), height // 8, width // 8), np.float32)
        logits[:, 0] = 1
        if not (images_nhwc == PAD_VALUE).any():
            logits[:, 1, :, width // 16 :] = 2
        return logits

    monkeypatch.setattr(input_shapes, "render", render)
    colours = tuple((n, n, n) for n in range(len(ROOM_CLASSES)))
    segmenter = Segmenter(make_spec(classes=ROOM_CLASSES, palette=colours), cast("Engine", engine))
    rows = {row["policy"]: row for row in measure(segmenter, 1)}
    assert list(rows) == ["letterbox", "stretch", "3 shapes", "5 shapes"]
    assert rows["letterbox"]["1:1"] > 90  # the model's own input is square
    assert rows["letterbox"]["4:3"] == 25  # half of the wall is wall, no floor
    assert rows["stretch"]["mean"] > 90
    assert (
        rows["stretch"]["grey_%"],
        rows["letterbox"]["input_shapes"],
        rows["5 shapes"]["input_shapes"],
    ) == (0, 1, 5)
    assert rows["letterbox"]["grey_%"] == pytest.approx(
        100 * np.mean([1 / 4, 1 / 4, 28 / 64, 28 / 64, 0, 1 / 2]), abs=0.1
    )
