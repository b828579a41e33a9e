"""Check a pair of image and label and write it to the dataset; thousands of them in several processes.

What is written is what `training.data` reads: the photo, and a palette PNG of labels for the photo turned upright.
A worker holds one pair at a time and gives back some hundred numbers, so memory doesn't grow with the images.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve import encode, image
from segserve.errors import DatasetError, RequestError
from segserve.labels import IGNORE_LABEL, palette
from training.duplicates import Fingerprint, fingerprint
from training.prepare_options import LEFT_OUT
from training.remap import Remap
from training.sources.item import BadPair, Item, LeftOut, Source

IMAGES, LABELS = "images", "labels"
CHUNK = 4  # pairs that a process takes at a time


@dataclass(frozen=True)
class Checked:
    """A pair that is in the dataset's folders now."""

    name: str
    source: Path  # the image where it came from
    split: str | None
    image: Path
    label: Path
    pixels: tuple[int, ...]  # of each class
    ignored: int  # with those of which is only known what they are not
    fingerprint: Fingerprint
    note: str | None  # what somebody should look at


@dataclass(frozen=True)
class Checker:
    """What a process needs to check pairs."""

    source: Source
    remap: Remap
    out: Path
    labels_as_stored: bool  # labels were drawn for images not turned as EXIF says

    def check(self, item: Item) -> Checked | LeftOut:
        """Read, compare, write. Never raises for what is wrong with a pair."""
        try:
            photo = _read_image(item.image)
            label = self._label(item, photo)
        except BadPair as bad:
            return LeftOut(item.image, bad.kind, bad.reason)
        if (label == IGNORE_LABEL).all():
            return LeftOut(item.image, "empty", f"no pixel of any class in {item.label}")
        upright = photo.rgb if photo.turn is None else photo.rgb.transpose(photo.turn)
        note = _note(photo, self.source.sized, self.labels_as_stored)
        return write(self.out, item, upright, label, len(self.remap.classes), note)

    def _label(self, item: Item, photo: image.Photo) -> NDArray[np.uint8]:
        """For the upright photo, uint8 (height, width). Raises BadPair."""
        stored = (photo.width, photo.height) if photo.sideways else (photo.height, photo.width)
        size = stored if self.labels_as_stored else (photo.height, photo.width)
        try:
            label = self.remap.apply(self.source.read(item, *size))
        except BadPair as bad:
            if bad.kind == "size" and photo.sideways:
                other = "without" if self.labels_as_stored else "with"
                hint = f"; EXIF turns the image on its side: try {other} --labels-as-stored"
                raise BadPair("size", bad.reason + hint) from bad
            raise
        if self.labels_as_stored and photo.turn is not None:
            label = np.array(Image.fromarray(label).transpose(photo.turn))
        return label


def _read_image(path: Path) -> image.Photo:
    try:
        return image.read(path.read_bytes())
    except OSError as error:
        raise BadPair("unreadable image", error.strerror or str(error)) from error
    except RequestError as error:
        raise BadPair("unreadable image", str(error)) from error
    except MemoryError as error:
        raise BadPair("unreadable image", "not enough memory for it; try --workers 1") from error


def _note(photo: image.Photo, labels_sized: bool, labels_as_stored: bool) -> str | None:
    """EXIF turns that no size gives away: by 180 degrees, mirrored, of a square, or where labels have no size."""
    told = labels_sized and photo.sideways and photo.height != photo.width
    if photo.turn is None or labels_as_stored or told:
        return None
    return (
        "EXIF turns the image, and no size tells whether the label was drawn for it as it is seen; "
        "if it was drawn for it as it is stored: --labels-as-stored"
    )


@contextmanager
def whole(out: Path) -> Iterator[None]:
    """Half a dataset, of a block that was broken off, is in the way of the next try: it goes, but for what says why."""
    before = set(out.iterdir()) if out.is_dir() else set()
    try:
        yield
    except BaseException:
        for path in set(out.iterdir()) - before if out.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LEFT_OUT:
                path.unlink(missing_ok=True)
        raise


def make_folders(out: Path) -> None:
    """For `write`."""
    for folder in (IMAGES, LABELS):
        (out / folder).mkdir(parents=True)


def write(
    out: Path, item: Item, upright: Image.Image, label: NDArray[np.uint8], num_classes: int, note: str | None = None
) -> Checked:  # fmt: skip
    """Put an image into the dataset with a label for it as it is seen, uint8 (height, width)."""
    assert "/" not in item.name, (
        item.name
    )  # an absolute one would lead out of the dataset, to the source itself
    image_path, label_path = (
        out / IMAGES / f"{item.name}{item.image.suffix}",
        out / LABELS / f"{item.name}.png",
    )
    _link(item.image, image_path)
    label_path.write_bytes(encode.png(label, palette(num_classes)))
    pixels = encode.shares(label, num_classes)
    return Checked(
        item.name, item.image, item.split, image_path, label_path, tuple(pixels.tolist()),
        int(label.size - pixels.sum()), fingerprint(upright), note,
    )  # fmt: skip


def _link(source: Path, target: Path) -> None:
    """A hard link costs nothing and survives the source; elsewhere, or where it isn't allowed, a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


# --- many ---------------------------------------------------------------------------------------------------

_checker: Checker | None = None  # of this process


def _start(checker: Checker) -> None:
    global _checker
    _checker = checker


def _check(item: Item) -> Checked | LeftOut:
    assert _checker is not None
    return _checker.check(item)


def check_all(checker: Checker, items: Sequence[Item], workers: int) -> Iterator[Checked | LeftOut]:
    """In the order of the items. Raises DatasetError: a process was killed."""
    make_folders(checker.out)
    if workers == 1:
        yield from map(checker.check, items)
        return
    context = multiprocessing.get_context("spawn")  # fork copies locks that other threads hold
    try:
        with ProcessPoolExecutor(workers, context, _start, (checker,)) as pool:
            yield from pool.map(_check, items, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise DatasetError("a process that reads pairs was killed; out of memory? Try --workers 1") from error
