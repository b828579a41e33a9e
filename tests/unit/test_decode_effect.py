"""The figures on reduced decoding are those of the photos that are reduced, against all of their pixels."""

from __future__ import annotations

import functools
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export import cases, decode_effect
from export.cases import Picture, build_case, pictures
from segserve.engines import Engine
from segserve.errors import UsageError
from segserve.image import decode, read
from segserve.parity_row import AS_SERVED, AT_INPUT_SIZE
from segserve.segmenter import Segmenter
from tests.images import saved
from tests.specs import make_spec

SIZE = (64, 64)


def noise(side: int) -> bytes:
    pixels = np.random.default_rng(side).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels).resize((side, side)), "JPEG")


class Suspicious:
    """Finds floor on the left if shown one of `expected`, otherwise a ceiling instead of its upper half."""

    def __init__(self, *expected: NDArray[np.uint8]) -> None:
        self.expected = expected

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = np.zeros((len(images_nhwc), 3, 8, 8), np.float32)
        logits[:, 1, :, :4] = 5
        for image, answer in zip(images_nhwc, logits, strict=True):
            if not any(np.array_equal(image, known) for known in self.expected):
                answer[2, :4] = 9
        return logits


def test_reduced_photos_are_compared_with_all_of_their_pixels() -> None:
    small, large, larger = (
        Picture(AS_SERVED, f"{side}.jpg", functools.partial(noise, side)) for side in (100, 256, 512)
    )
    at_size = Picture(AT_INPUT_SIZE, "input", lambda: np.zeros((*SIZE, 3), np.uint8))
    preparing = Segmenter(make_spec(), cast("Engine", None))
    assert read(noise(256), input_size=SIZE).reduced == 2
    assert read(noise(512), input_size=SIZE).reduced == 4
    served = [preparing.prepare(noise(side)).input_hwc for side in (256, 512)]

    reference = Segmenter(make_spec(), cast("Engine", Suspicious(*served)))
    whole = np.asarray(Image.fromarray(decode(noise(512))).resize(SIZE, Image.Resampling.BILINEAR))
    reference.engine = cast("Engine", Suspicious(*served, whole))  # the larger one's labels don't change
    made = [build_case(picture, reference) for picture in (small, large, at_size, larger)]
    assert (made[1].labels == 2).sum() == 0
    got = decode_effect.figures(made, reference)
    changed = 128 * 256 / (256 * 256 + 512 * 512)
    assert got["photos"] == 2
    assert got["label_agreement"] == pytest.approx(1 - changed, abs=0.01)  # the border is soft
    assert got["lowest_label_agreement"] == pytest.approx(0.5, abs=0.05)
    assert got["lowest_at"] == "256.jpg"
    assert 0 < got["input_difference"] < 5
    assert decode_effect.figures(made[:1], reference) == {"photos": 0}


@pytest.mark.parametrize(
    "size", [(64, 64), (97, 129), (48, 80), (1024, 1024), (2048, 2048), (8192, 96), (96, 8192)]
)
def test_every_parity_check_looks_at_a_reduced_photo(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "PHOTOS", ())
    rendered = []

    def flat(seed: int, height: int, width: int) -> tuple[NDArray[np.uint8], None]:
        rendered.append(height * width)
        return np.full((height, width, 3), 90, np.uint8), None

    monkeypatch.setattr(cases, "render", flat)
    [large] = [picture for picture in pictures(size, []) if picture.kind == AS_SERVED]
    data = large.read()
    assert isinstance(data, bytes)
    photo = read(data, input_size=size)
    assert photo.reduced == 2
    assert large.name == f"room-{photo.height}x{photo.width}.jpg"
    # a room of 33 megapixels takes 90 s and 5 GiB
    assert photo.height * photo.width <= cases.LARGE_PIXELS
    assert rendered[0] <= cases.RENDERED_PIXELS


def test_a_room_that_is_enlarged_is_the_same_room(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode(cases.room_jpeg(7, 240, 320, 1))
    monkeypatch.setattr(cases, "RENDERED_PIXELS", 240 * 320 // 4)
    enlarged = decode(cases.room_jpeg(7, 240, 320, 1))
    assert enlarged.shape == whole.shape
    small = [
        np.asarray(Image.fromarray(photo).resize((32, 24), Image.Resampling.BOX), np.float64).ravel()
        for photo in (whole, enlarged)
    ]
    assert np.corrcoef(small[0], small[1])[0, 1] > 0.98  # only its exposure differs a little


@pytest.mark.parametrize(
    ("yours", "says"), [(True, "--images: bad"), (False, "a test photo of export's own: bad")]
)
def test_a_photo_that_cannot_be_read_is_blamed_on_whose_it_is(yours: bool, says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        build_case(
            Picture(AS_SERVED, "bad.jpg", lambda: b"bad", yours), Segmenter(make_spec(), cast("Engine", None))
        )
