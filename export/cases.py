"""The pictures that a parity check looks at, with the checkpoint's own answers.

Rendered rooms as JPEG files of several shapes, one of them large, and the files of a folder if one is given, go the
whole served way; rooms rendered at many network input sizes test that the artefact is right at every height and width.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve.errors import CheckFailed, RequestError, UsageError
from segserve.geometry import Geometry
from segserve.image import ORIENTATION_TAG, Photo, read
from segserve.parity_row import AS_SERVED, AT_INPUT_SIZE
from segserve.segmenter import Prepared, Segmenter
from training.rooms import render
from training.spread import spread

# height, width, EXIF orientation: landscape, portrait, lying on its side, wide and odd, small enough to be enlarged
PHOTOS = ((480, 640, 1), (640, 427, 1), (360, 480, 6), (301, 533, 1), (97, 211, 1))

# times the input's height and width: a JPEG so large that the server decodes it at half its size
LARGE_TIMES = 4
LARGE_PIXELS = 16_000_000  # of that JPEG at most: where the input is large it is a wide strip
RENDERED_PIXELS = 4_000_000  # what is larger is rendered at this size, 600 MB and 10 s, and enlarged

# Odd ones, non-multiples of 8, maps smaller than the finest pyramid level, and the usual training crops.
INPUT_SIZES = (
    (33, 47), (65, 129), (97, 97), (128, 96), (161, 233), (200, 320), (255, 257), (300, 201),
    (113, 159), (72, 368), (321, 321), (473, 473),
)  # fmt: skip

# of a folder of photos: their label maps are held until all artefacts are compared, 12 MB for a photo of 12 megapixels
MAX_FILES = 50

FIRST_SEED = 90_000_000  # far from the rooms that a model was trained on
MIRRORED = "-mirrored"


@dataclass(frozen=True)
class Picture:
    """What to look at. `read` gives the bytes of an image file (as served) or a network input, uint8 (H, W, 3)."""

    kind: str
    name: str
    read: Callable[[], bytes | NDArray[np.uint8]]
    yours: bool = False  # of --images


@dataclass(frozen=True)
class Case:
    """One picture and what the checkpoint makes of it.

    `logits` float32 (num_classes, h, w); `labels` uint8 at the photo's upright size.
    """

    kind: str
    name: str
    content: bytes | NDArray[np.uint8]
    geometry: Geometry
    logits: NDArray[np.float32]
    labels: NDArray[np.uint8]
    yours: bool = False


def pictures(served_size: tuple[int, int], files: Sequence[Path]) -> list[Picture]:
    """Rendered rooms and `files` as served, then rooms at input sizes, `served_size` among them.

    A room at an input size is followed by its mirror image, which it shares a batch with.
    """
    listed = []
    for index, (height, width, orientation) in enumerate((*PHOTOS, (*large_size(*served_size), 1))):
        read = functools.partial(room_jpeg, FIRST_SEED + index, height, width, orientation)
        listed.append(Picture(AS_SERVED, f"room-{height}x{width}.jpg", read))
    listed += [Picture(AS_SERVED, path.name, path.read_bytes, yours=True) for path in files]
    for height, width in dict.fromkeys((*INPUT_SIZES, served_size)):
        name, read_room = f"room-{height}x{width}", functools.partial(_room, height, width)
        listed.append(Picture(AT_INPUT_SIZE, name, read_room))
        listed.append(Picture(AT_INPUT_SIZE, f"{name}{MIRRORED}", functools.partial(_mirrored, read_room)))
    return listed


def large_size(input_height: int, input_width: int) -> tuple[int, int]:
    """Height and width of a JPEG that the server decodes at half its size, of LARGE_PIXELS at most.

    The photo's longer way through the input decides by how much it is reduced, so a strip as wide does as well.
    """
    width = LARGE_TIMES * input_width
    return min(LARGE_TIMES * input_height, LARGE_PIXELS // width), width


def build_case(picture: Picture, reference: Segmenter) -> Case:
    """Ask the checkpoint. Raises UsageError for a file that is no image, CheckFailed for logits that are no numbers."""
    content = picture.read()
    try:
        prepared = prepare(content, reference)
    except RequestError as error:
        what = "--images" if picture.yours else "a test photo of export's own"
        raise UsageError(f"{what}: {picture.name}: {error}") from error
    logits = reference.logits([prepared])[0]
    if not np.isfinite(logits).all():
        raise CheckFailed(
            f"the checkpoint's logits on {picture.name} are not finite, so nothing can be compared with them: the "
            "training diverged, or a weight was damaged. Take an earlier checkpoint."
        )
    labels = reference.labels(logits, prepared)
    return Case(picture.kind, picture.name, content, prepared.geometry, logits, labels, picture.yours)


def prepare(content: bytes | NDArray[np.uint8], segmenter: Segmenter) -> Prepared:
    """What `segmenter` feeds its network; an array is fed as it is."""
    if isinstance(content, bytes):
        return segmenter.prepare(content)
    height, width, _ = content.shape
    return Prepared(content, Geometry.letterbox(height, width, height, width))


def chosen_files(folder: Path | None) -> tuple[list[Path], int]:
    """At most MAX_FILES of a folder's files, evenly chosen over their sorted names, and how many there are.

    Raises UsageError for a folder without files.
    """
    files = [] if folder is None else image_files(folder, "--images")
    return spread(files, MAX_FILES), len(files)


def image_files(folder: Path, option: str) -> list[Path]:
    """Its files by name. Raises UsageError, naming the option, if there are none."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{option} {folder}: {error.strerror}") from None
    if not files:
        raise UsageError(f"{option} {folder}: there are no files in it; give a folder of photos")
    return files


def read_photo(path: Path, option: str, input_size: tuple[int, int]) -> Photo:
    """A file of a folder, with the pixels that an input of (height, width) needs.

    Raises UsageError, naming the option, for a file that is no photo.
    """
    try:
        return read(path.read_bytes(), input_size=input_size)
    except RequestError as error:
        raise UsageError(f"{option}: {path.name}: {error}") from error


def _room(height: int, width: int) -> NDArray[np.uint8]:
    image, _ = render(FIRST_SEED + height * 1000 + width, height, width)
    return image


def _mirrored(read: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(read()[:, ::-1])


def room_jpeg(seed: int, height: int, width: int, orientation: int) -> bytes:
    """A rendered room as a JPEG file; `orientation` is written to its EXIF, the pixels stay as they are.

    A room of more than RENDERED_PIXELS is rendered smaller and enlarged: rendering takes 150 bytes a pixel.
    """
    scale = min(1.0, math.sqrt(RENDERED_PIXELS / (height * width)))
    image, _ = render(seed, max(1, int(scale * height)), max(1, int(scale * width)))
    photo = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()
