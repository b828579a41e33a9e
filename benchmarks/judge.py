"""Whether an answer of the server is right, judged from its bytes: a fast wrong answer is worth nothing.

Nothing here knows Locust, so that what the load test (`make load`) lets pass is itself tested. benchmarks/truth.py is
what an answer must equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photos import Photo
from benchmarks.truth import Truth, coarse
from deploy.asking import least_agreement
from segserve import encode
from segserve.errors import CheckFailed
from segserve.labels import IGNORE_LABEL
from segserve.request import CONTENT_TYPES

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
    return _read_png(answer, size, num_classes)[0]


def judge(answer: Answer, truth: Truth, names: dict[int, str]) -> None:
    """Compare an answer with what is right for its photo and version.

    names: of the classes of that version, by id, as far as they are known; a right `json` answer adds to them.

    Raises: CheckFailed; its message is short and without figures of the single request, as Locust counts equal
    messages together.
    """
    _check_type(answer)
    match answer.format:
        case "png":
            _same_mask(read_mask(answer, truth.labels.shape, len(truth.colours)), truth, answer)
        case "npy":
            _same_mask(_read_npy(answer, truth), truth, answer)
        case "overlay":
            _judge_overlay(answer, truth)
        case "json":
            _judge_json(answer, truth, names)


class Masks:
    """The right label map of each photo, for each version that answered.

    A body that was right before is right again: of PNG, npy and overlay, equal bytes are not read twice, so that the
    client has time for the next request.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._known: dict[tuple[str, str], Truth] = {}
        self._names: dict[str, dict[int, str]] = {}
        self._golden: dict[tuple[str, str], NDArray[np.uint8]] = {}
        self._right: dict[tuple[str, str, str], bytes] = {}

    def expect(self, photo: str, version: str, labels: NDArray[np.uint8]) -> None:
        """What the checkpoint of that version makes of the photo, from its package: its masks must be like this.

        Not to the last pixel: an engine may differ from the checkpoint by as much as a rollout lets pass.
        """
        self._golden[photo, version] = labels

    def expect_names(self, version: str, names: Sequence[str]) -> None:
        """Of that version's classes, in label order, from its package; without it, what its first answers say."""
        self._names[version] = dict(enumerate(names))

    def make_ready(self, formats: Collection[str]) -> None:
        """Do now, before the load, the work of judging that needs doing once."""
        for truth in self._known.values():
            truth.make_ready(formats)

    def check(self, photo: Photo, answer: Answer) -> None:
        """Judge an answer for that photo. Raises: CheckFailed.

        Of a version that is new, the first mask is taken as the right one if it is like that of `expect`, or if there
        is none; answers of it in other formats pass until then.
        """
        _check_type(answer)
        key = photo.name, answer.version
        digest = hashlib.blake2b(answer.body, digest_size=16).digest()
        if self._right.get((*key, answer.format)) == digest:
            return
        truth = self._known.get(key)
        if truth is not None:
            judge(answer, truth, self._names.setdefault(answer.version, {}))
        elif answer.format == "png":
            labels, colours = _read_png(answer, (photo.height, photo.width), self.num_classes)
            self._like_golden(key, labels, answer)
            truth = self._known[key] = Truth(photo, labels, colours)
        if truth is not None and answer.format != "json":  # which holds times, so it is never the same
            self._right[*key, answer.format] = digest

    def _like_golden(self, key: tuple[str, str], mask: NDArray[np.uint8], answer: Answer) -> None:
        golden = self._golden.get(key)
        if golden is None:
            return
        _same(mask.shape, golden.shape, "size of the golden mask")
        least = least_agreement(answer.engine)
        if (agreement := float((mask == golden).mean())) < least:
            raise CheckFailed(
                f"not the mask of the package of version {answer.version}: {100 * agreement:.2f} % of the pixels of "
                f"{key[0]} have the right class, {100 * least:.1f} % are expected of {answer.engine or 'any engine'}"
            )

    def require_content(self) -> None:
        """A server that finds the same single class in every photo segments nothing. Raises: CheckFailed."""
        if len({int(label) for truth in self._known.values() for label in np.unique(truth.labels)}) < 2:
            raise CheckFailed("all masks together hold one class only: nothing was segmented")


def _read_png(
    answer: Answer, size: tuple[int, ...], num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels, and the colours of the classes, uint8 (num_classes, 3)."""
    _check_type(answer)
    with _opened(answer, "PNG") as image:
        _same(image.mode, "P", "PNG mode")
        labels = _checked(np.asarray(image, np.uint8), size, num_classes)
        stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return labels, encode.full_palette(stored)[:num_classes]


def _read_npy(answer: Answer, truth: Truth) -> NDArray[np.uint8]:
    with _reading("an npy file"):
        labels = np.load(io.BytesIO(answer.body), allow_pickle=False)
    _same(labels.dtype, np.uint8, "dtype")
    return _checked(labels, truth.labels.shape, len(truth.colours))


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
    _same(size, (height, width), "size in JSON")
    _same(version, answer.version, "version in JSON")
    if classes != truth.classes:
        raise CheckFailed(f"JSON: other pixels or another RLE than the mask of version {answer.version}")
    _same_names(said, names)


def _same_names(said: dict[int, str], names: dict[int, str]) -> None:
    """Each class as it is known, and no two alike; what is new is known from now on."""
    for class_id, name in said.items():
        _same(name, names.get(class_id, name), f"name of class {class_id} in JSON")
    together = {**names, **said}
    if len(set(together.values())) < len(together):
        raise CheckFailed("JSON: two classes have the same name")
    names.update(said)


def _judge_overlay(answer: Answer, truth: Truth) -> None:
    with _opened(answer, "JPEG") as image:
        _same(image.mode, "RGB", "JPEG mode")
        _same((image.height, image.width), truth.labels.shape, "size of the overlay")
        seen = coarse(image)
    if np.abs(seen - truth.overlay).max() > OVERLAY_LEVELS:
        raise CheckFailed(
            f"overlay: another picture than the mask of version {answer.version} over the photo"
        )


def _check_type(answer: Answer) -> None:
    _same(answer.content_type, CONTENT_TYPES[answer.format], "content type")


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
    _same(labels.shape, size, "size of the mask")
    if np.any((labels >= num_classes) & (labels != IGNORE_LABEL)):
        raise CheckFailed(f"the mask holds ids that are no classes (0 to {num_classes - 1})")
    return labels


def _same_mask(labels: NDArray[np.uint8], truth: Truth, answer: Answer) -> None:
    if not np.array_equal(labels, truth.labels):
        raise CheckFailed(
            f"{answer.format}: another mask than version {answer.version} gave when it was quiet"
        )


def _same(got: object, expected: object, what: str) -> None:
    if got != expected:
        raise CheckFailed(f"{what}: got {got}, expected {expected}")
