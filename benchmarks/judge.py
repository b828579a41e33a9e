"""Whether an answer of the server is right, judged from its bytes: a fast wrong answer is worth nothing.

Pure functions, so that what the load test (`make load`) lets pass is itself tested.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.asking import LEAST_AGREEMENT
from segserve.errors import CheckFailed
from segserve.labels import IGNORE_LABEL
from segserve.request import CONTENT_TYPES


@dataclass(frozen=True)
class Answer:
    """What came back with status 200: format asked for, version that answered, content type, body, engine."""

    format: str
    version: str
    content_type: str
    body: bytes
    engine: str = ""


Size = tuple[int, int]  # height, width of the upright photo


def read_mask(answer: Answer, size: Size, num_classes: int) -> NDArray[np.uint8]:
    """The label map (height, width) of a `png` answer. Raises: CheckFailed where it is not one of that photo."""
    _check_type(answer)
    with _opened(answer, "PNG") as image:
        _same(image.mode, "P", "PNG mode")
        labels = np.asarray(image, np.uint8)
    return _checked(labels, size, num_classes)


def judge(
    answer: Answer, mask: NDArray[np.uint8], num_classes: int, pixels: Mapping[int, int] | None = None
) -> None:
    """Compare an answer with the label map that is right for its photo and version.

    pixels: what pixels_of(mask) gives, if it is there already: counting takes longer than all the rest.

    Raises: CheckFailed; its message is short and without figures of the single request, as Locust counts equal
    messages together.
    """
    if answer.format == "json":
        _judge_json(answer, mask, pixels_of(mask) if pixels is None else pixels)
        return
    judges: dict[str, Callable[[Answer, NDArray[np.uint8], int], None]] = {
        "png": _judge_png, "npy": _judge_npy, "overlay": _judge_overlay,
    }  # fmt: skip
    judges[answer.format](answer, mask, num_classes)


def pixels_of(mask: NDArray[np.uint8]) -> dict[int, int]:
    """Class id -> how many pixels of the label map it has, classes without any left out."""
    return {class_id: int(count) for class_id, count in enumerate(np.bincount(mask.ravel())) if count}


class Masks:
    """The right label map of each photo, for each version that answered.

    A body that was right before is right again: of PNG, npy and overlay, equal bytes are not read twice, so that the
    client has time for the next request.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._known: dict[tuple[str, str], NDArray[np.uint8]] = {}
        self._pixels: dict[tuple[str, str], dict[int, int]] = {}
        self._golden: dict[tuple[str, str], NDArray[np.uint8]] = {}
        self._right: dict[tuple[str, str, str], bytes] = {}

    def expect(self, photo: str, version: str, labels: NDArray[np.uint8]) -> None:
        """What the checkpoint of that version makes of the photo, from its package: its masks must be like this.

        Not to the last pixel: an engine may differ from the checkpoint by as much as a rollout lets pass.
        """
        self._golden[photo, version] = labels

    def check(self, photo: str, size: Size, answer: Answer) -> None:
        """Judge an answer for the photo of that name and upright size. Raises: CheckFailed.

        Of a version that is new, the first mask is taken as the right one if it is like that of `expect`, or if there
        is none; answers of it in other formats pass until then.
        """
        _check_type(answer)
        key = photo, answer.version
        digest = hashlib.blake2b(answer.body, digest_size=16).digest()
        if self._right.get((*key, answer.format)) == digest:
            return
        mask = self._known.get(key)
        if mask is not None:
            judge(answer, mask, self.num_classes, self._pixels[key])
        elif answer.format == "png":
            mask = read_mask(answer, size, self.num_classes)
            self._like_golden(key, mask, answer)
            self._known[key], self._pixels[key] = mask, pixels_of(mask)
        if mask is not None and answer.format != "json":  # which holds times, so it is never the same
            self._right[*key, answer.format] = digest

    def _like_golden(self, key: tuple[str, str], mask: NDArray[np.uint8], answer: Answer) -> None:
        golden = self._golden.get(key)
        if golden is None:
            return
        _same(mask.shape, golden.shape, "size of the golden mask")
        least = LEAST_AGREEMENT.get(answer.engine.rpartition("-")[2], LEAST_AGREEMENT["fp32"])
        if (agreement := float((mask == golden).mean())) < least:
            raise CheckFailed(
                f"not the mask of the package of version {answer.version}: {100 * agreement:.2f} % of the pixels of "
                f"{key[0]} have the right class, {100 * least:.1f} % are expected of {answer.engine or 'any engine'}"
            )

    def require_content(self) -> None:
        """A server that finds the same single class in every photo segments nothing. Raises: CheckFailed."""
        if len({int(label) for mask in self._known.values() for label in np.unique(mask)}) < 2:
            raise CheckFailed("all masks together hold one class only: nothing was segmented")


def _judge_png(answer: Answer, mask: NDArray[np.uint8], num_classes: int) -> None:
    _same_mask(read_mask(answer, mask.shape, num_classes), mask, answer)


def _judge_npy(answer: Answer, mask: NDArray[np.uint8], num_classes: int) -> None:
    _check_type(answer)
    try:
        labels = np.load(io.BytesIO(answer.body), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CheckFailed(f"not an npy file: {error}") from None
    _same(labels.dtype, np.uint8, "dtype")
    _same_mask(_checked(labels, mask.shape, num_classes), mask, answer)


def _judge_json(answer: Answer, mask: NDArray[np.uint8], expected: Mapping[int, int]) -> None:
    _check_type(answer)
    height, width = mask.shape
    try:
        found = json.loads(answer.body)
        size = found["image"]["height"], found["image"]["width"]
        pixels = {int(entry["id"]): int(entry["pixels"]) for entry in found["classes"]}
        rle_sizes = {tuple(entry["rle"]["size"]) for entry in found["classes"]}
        version = found["model"]["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"not the JSON that was promised: {error!r}") from None
    _same(size, (height, width), "size in JSON")
    _same(rle_sizes, {(height, width)}, "size of the RLE")
    _same(version, answer.version, "version in JSON")
    if sum(pixels.values()) != height * width:
        raise CheckFailed("JSON: the classes' pixels do not sum to the photo's")
    if pixels != expected:
        raise CheckFailed(f"JSON: other pixel counts than the mask of version {answer.version}")


def _judge_overlay(answer: Answer, mask: NDArray[np.uint8], _num_classes: int) -> None:
    _check_type(answer)
    with _opened(answer, "JPEG") as image:
        _same(image.mode, "RGB", "JPEG mode")
        _same((image.height, image.width), mask.shape, "size of the overlay")


def _check_type(answer: Answer) -> None:
    _same(answer.content_type, CONTENT_TYPES[answer.format], "content type")


def _opened(answer: Answer, image_format: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(answer.body), formats=[image_format])
        image.load()
    except (OSError, SyntaxError) as error:  # how Pillow names what it cannot read
        raise CheckFailed(f"not a whole {image_format}: {type(error).__name__}") from None
    return image


def _checked(labels: NDArray[np.uint8], size: tuple[int, ...], num_classes: int) -> NDArray[np.uint8]:
    _same(labels.shape, size, "size of the mask")
    if np.any((labels >= num_classes) & (labels != IGNORE_LABEL)):
        raise CheckFailed(f"the mask holds ids that are no classes (0 to {num_classes - 1})")
    return labels


def _same_mask(labels: NDArray[np.uint8], mask: NDArray[np.uint8], answer: Answer) -> None:
    if not np.array_equal(labels, mask):
        raise CheckFailed(
            f"{answer.format}: another mask than version {answer.version} gave when it was quiet"
        )


def _same(got: object, expected: object, what: str) -> None:
    if got != expected:
        raise CheckFailed(f"{what}: got {got}, expected {expected}")
