"""Whether an answer of the server is right, judged from its bytes: a fast wrong answer is worth nothing.

Nothing here knows Locust, so that what the load test (`make load`) lets pass is itself tested. benchmarks/truth.py is
what an answer must equal, benchmarks/known_masks.py how that is found out.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.truth import Truth, coarse
from segserve import encode
from segserve.errors import CheckFailed
from segserve.labels import IGNORE_LABEL
from segserve.request import CONTENT_TYPES
from training.sources import rle

OVERLAY_LEVELS = 16
"""Of 255, by which JPEG may move the mean of a block: by 5 it does, by 12 where the edge cuts a block; a block of
another class is off by 20 to 110."""

Response = TypeVar("Response")


@dataclass(frozen=True)
class Answer:
    """What came back with status 200: format asked for, version that answered, content type, body, engine."""

    format: str
    version: str
    content_type: str
    body: bytes
    engine: str = ""


Size = tuple[int, int]  # height, width of the upright photo


def words_of(judge: Callable[[Response], str | None], response: Response) -> str | None:
    """What `judge` says is wrong with a response. If it fails at that, so has the response: none is left uncounted."""
    try:
        return judge(response)
    except Exception as error:  # of whatever the bytes provoke: no list stays complete
        return f"could not be judged: {type(error).__name__}: {error}"[:200]


def read_mask(answer: Answer, size: Size, num_classes: int) -> NDArray[np.uint8]:
    """The label map (height, width) of a `png` answer. Raises: CheckFailed where it is not one of that photo."""
    return read_png(answer, size, num_classes)[0]


def read_labels(answer: Answer, size: Size, num_classes: int) -> NDArray[np.uint8]:
    """The label map (height, width) of a `png`, `npy` or `json` answer. Raises: CheckFailed as `read_mask`."""
    match answer.format:
        case "npy":
            return _read_npy(answer, size, num_classes)
        case "json":
            return _read_json(answer, size, num_classes)
    return read_mask(answer, size, num_classes)


def judge(answer: Answer, truth: Truth, names: dict[int, str]) -> None:
    """Compare an answer with what is right for its photo and version.

    names: of the classes of that version, by id, as far as they are known; a right `json` answer adds to them.

    Raises: CheckFailed; its message is short and without figures of the single request, as Locust counts equal
    messages together.
    """
    check_type(answer)
    match answer.format:
        case "png":
            _same_mask(read_mask(answer, truth.labels.shape, len(truth.colours)), truth, answer)
        case "npy":
            _same_mask(_read_npy(answer, truth.labels.shape, len(truth.colours)), truth, answer)
        case "overlay":
            _judge_overlay(answer, truth)
        case "json":
            _judge_json(answer, truth, names)


def read_png(
    answer: Answer, size: tuple[int, ...], num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels, and the colours of the classes, uint8 (num_classes, 3)."""
    check_type(answer)
    with _opened(answer, "PNG") as image:
        require_same(image.mode, "P", "PNG mode")
        labels = _checked(np.asarray(image, np.uint8), size, num_classes)
        stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return labels, encode.full_palette(stored)[:num_classes]


def _read_npy(answer: Answer, size: Size, num_classes: int) -> NDArray[np.uint8]:
    with _reading("an npy file"):
        labels = np.load(io.BytesIO(answer.body), allow_pickle=False)
    require_same(labels.dtype, np.uint8, "dtype")
    return _checked(labels, size, num_classes)


def _read_json(answer: Answer, size: Size, num_classes: int) -> NDArray[np.uint8]:
    """From the RLE of each class; what else the JSON says, `_judge_json` compares with that."""
    labels = np.full(size, IGNORE_LABEL, np.uint8)
    with _reading("the JSON that was promised"):
        found = json.loads(answer.body)
        said = found["image"]["height"], found["image"]["width"]
    require_same(said, size, "size in JSON")
    with _reading("the JSON that was promised"):
        for entry in found["classes"]:
            labels[rle.decode(entry["rle"]["counts"], *size)] = entry["id"]
    return _checked(labels, size, num_classes)


def _judge_json(answer: Answer, truth: Truth, names: dict[int, str]) -> None:
    height, width = truth.labels.shape
    with _reading("the JSON that was promised"):
        found = json.loads(answer.body)
        size = found["image"]["height"], found["image"]["width"]
        version = found["model"]["version"]
        said = {int(entry["id"]): str(entry["name"]) for entry in found["classes"]}
        classes = {
            int(e["id"]): {"pixels": int(e["pixels"]), "rle": dict(e["rle"])} for e in found["classes"]
        }
    require_same(size, (height, width), "size in JSON")
    require_same(version, answer.version, "version in JSON")
    if classes != truth.classes:
        raise CheckFailed(f"JSON: other pixels or another RLE than the mask of version {answer.version}")
    _same_names(said, names)


def _same_names(said: dict[int, str], names: dict[int, str]) -> None:
    """Each class as it is known, and no two alike; what is new is known from now on."""
    for class_id, name in said.items():
        require_same(name, names.get(class_id, name), f"name of class {class_id} in JSON")
    together = {**names, **said}
    if len(set(together.values())) < len(together):
        raise CheckFailed("JSON: two classes have the same name")
    names.update(said)


def read_overlay(answer: Answer, size: Size) -> NDArray[np.float32]:
    """An `overlay` answer as `truth.coarse` gives it. Raises: CheckFailed where it is no picture of that photo."""
    with _opened(answer, "JPEG") as image:
        require_same(image.mode, "RGB", "JPEG mode")
        require_same((image.height, image.width), size, "size of the overlay")
        return coarse(image)


def _judge_overlay(answer: Answer, truth: Truth) -> None:
    seen = read_overlay(answer, truth.labels.shape)
    if np.abs(seen - truth.overlay).max() > OVERLAY_LEVELS:
        raise CheckFailed(
            f"overlay: another picture than the mask of version {answer.version} over the photo"
        )


def check_type(answer: Answer) -> None:
    """Raises: CheckFailed if the answer does not say that it is of the format asked for."""
    require_same(answer.content_type, CONTENT_TYPES[answer.format], "content type")


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """What damaged bytes make Pillow, NumPy and json raise is no closed list. Raises: CheckFailed for all of it."""
    try:
        yield
    except Exception as error:
        raise CheckFailed(f"not {what}: {type(error).__name__}") from None


def _opened(answer: Answer, image_format: str) -> Image.Image:
    with _reading(f"a whole {image_format}"):
        image = Image.open(io.BytesIO(answer.body), formats=[image_format])
        image.load()
    return image


def _checked(labels: NDArray[np.uint8], size: tuple[int, ...], num_classes: int) -> NDArray[np.uint8]:
    require_same(labels.shape, size, "size of the mask")
    if np.any((labels >= num_classes) & (labels != IGNORE_LABEL)):
        raise CheckFailed(f"the mask holds ids that are no classes (0 to {num_classes - 1})")
    return labels


def _same_mask(labels: NDArray[np.uint8], truth: Truth, answer: Answer) -> None:
    if not np.array_equal(labels, truth.labels):
        raise CheckFailed(
            f"{answer.format}: another mask than version {answer.version} gave when it was quiet"
        )


def require_same(got: object, expected: object, what: str) -> None:
    """Raises: CheckFailed, with both."""
    if got != expected:
        raise CheckFailed(f"{what}: got {got}, expected {expected}")
