"""Rendered rooms as the JPEG files that people send: several sizes, upright and turned, no download needed.

The load test posts them; `make serve` segments one. A photo is the same every time, by its seed.

    python -m benchmarks.photos out/room.jpg --height 960 --width 1280
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image, ImageOps

from segserve.cli import run
from segserve.errors import UsageError
from segserve.image import ORIENTATION_TAG
from training.rooms import render

TURN_RIGHT = 6  # Exif orientation: the stored pixels must be turned a quarter to the right to be upright

QUALITIES = (78, 92)
NO_PHOTO = (OSError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that are no image, torn, or vast."""
MIXED_SIZES = ((480, 640), (1040, 780), (960, 1280), (1600, 1200), (1500, 2000))
"""Upright height and width of the load test's photos, 0.3 to 3 megapixels, two of them portrait."""


@dataclass(frozen=True)
class Photo:
    """A JPEG file and the size that it has once it is upright."""

    name: str
    jpeg: bytes
    height: int
    width: int


def photo(seed: int, height: int, width: int, quality: int = 92) -> Photo:
    """Render one room of `height` x `width`; portraits are stored on their side, as a phone stores them."""
    image, _ = render(seed, height, width)
    upright = Image.fromarray(image)
    exif = Image.Exif()
    if height > width:
        exif[ORIENTATION_TAG] = TURN_RIGHT
        upright = upright.transpose(Image.Transpose.ROTATE_90)  # turned left, so that turning right undoes it
    file = io.BytesIO()
    upright.save(file, "JPEG", quality=quality, exif=exif)
    return Photo(f"{width}x{height}", file.getvalue(), height, width)


def mixed_photos(seed: int) -> Iterator[Photo]:
    """One photo of each of `MIXED_SIZES`, rendered as it is asked for."""
    for number, (height, width) in enumerate(MIXED_SIZES):
        yield photo(seed + number, height, width)


def assorted_photos(seed: int) -> Iterator[Photo]:
    """Two rooms of each of `MIXED_SIZES`, in qualities from a messenger's to a camera's."""
    for number, (quality, (height, width)) in enumerate(itertools.product(QUALITIES, MIXED_SIZES)):
        made = photo(seed + number, height, width, quality)
        yield dataclasses.replace(made, name=f"{made.name}-q{quality}")


def photos_of(folder: Path) -> list[Photo]:
    """The JPEG and PNG files of a folder, in the order of their names. Raises UsageError if there is none."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            try:
                with Image.open(path) as image:
                    width, height = ImageOps.exif_transpose(image).size
            except NO_PHOTO as error:
                raise UsageError(f"{path} is not an image: {error}") from None
            found.append(Photo(path.name, path.read_bytes(), height, width))
    if not found:
        raise UsageError(f"{folder} holds no .jpg, .jpeg or .png file")
    return found


@dataclass(frozen=True)
class Config:
    """Write one photo."""

    out: tyro.conf.Positional[Path]
    """The JPEG file to write; its folder is made."""
    height: int = 960
    width: int = 1280
    seed: int = 7_000_004

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 64:
            raise UsageError(f"a photo of {self.width}x{self.height} is too small: give at least 64x64")


def main(config: Config) -> None:
    """Render and write the file."""
    config.out.parent.mkdir(parents=True, exist_ok=True)
    made = photo(config.seed, config.height, config.width)
    config.out.write_bytes(made.jpeg)
    print(f"{config.out}: {made.width}x{made.height}, {len(made.jpeg) // 1000} kB")


if __name__ == "__main__":
    run(Config, main)
