"""How much two versions disagree about the same photos, class by class, and a picture of where it is worst."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segserve.encode import overlay_jpeg
from segserve.image import decode

MIN_SHARE = 0.03
"""A class counts if it covers so much of all photos together, in either version's eyes: rarer ones flutter."""
PANEL_HEIGHT_PX = 360
CAPTION_PX = 18
DIFFERENT_RGB = (255, 0, 60)


@dataclass(frozen=True)
class Pair:
    """One photo (an image file) in the eyes of both versions, uint8 (H, W) each."""

    name: str
    photo: bytes
    old: NDArray[np.uint8]
    new: NDArray[np.uint8]

    def disagreement(self) -> float:
        """Share of pixels with another class."""
        return float((self.old != self.new).mean())


@dataclass
class Disagreement:
    """Pixels of both versions, counted together over all photos that were compared."""

    num_classes: int
    counts: NDArray[np.int64] = field(init=False)
    worst: Pair | None = None
    photos: int = 0

    def __post_init__(self) -> None:
        self.counts = np.zeros((256, 256), np.int64)

    def add(self, pair: Pair) -> None:
        """Raises: ValueError if the masks differ in size."""
        joint = pair.old.astype(np.int64) * 256 + pair.new
        self.counts += np.bincount(joint.ravel(), minlength=65536).reshape(256, 256)
        self.photos += 1
        if self.worst is None or pair.disagreement() > self.worst.disagreement():
            self.worst = pair

    def overall(self) -> float:
        """Share of all pixels with another class."""
        return 1 - float(np.trace(self.counts)) / max(1, int(self.counts.sum()))

    def by_class(self) -> dict[int, float]:
        """1 - IoU of the two versions' pixels of each class that covers at least MIN_SHARE."""
        both = np.diagonal(self.counts)
        old, new = self.counts.sum(axis=1), self.counts.sum(axis=0)
        least = MIN_SHARE * self.counts.sum()
        return {
            c: 1 - float(both[c]) / float(old[c] + new[c] - both[c])
            for c in range(self.num_classes)
            if max(old[c], new[c]) >= max(1, least)
        }


def picture(pair: Pair, palette: NDArray[np.uint8], old: str, new: str, path: Path) -> None:
    """Photo, both masks laid over it, and the pixels that differ, side by side as a JPEG."""
    pixels = decode(pair.photo)
    photo = Image.fromarray(pixels)
    different = (pixels // 3).copy()
    different[pair.old != pair.new] = DIFFERENT_RGB
    panels = [
        ("photo", photo),
        (old, Image.open(io.BytesIO(overlay_jpeg(pixels, pair.old, palette)))),
        (new, Image.open(io.BytesIO(overlay_jpeg(pixels, pair.new, palette)))),
        (f"differs: {100 * pair.disagreement():.1f} %", Image.fromarray(different)),
    ]
    width = max(1, round(photo.width * PANEL_HEIGHT_PX / photo.height))
    sheet = Image.new("RGB", (len(panels) * width, PANEL_HEIGHT_PX + CAPTION_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, panel) in enumerate(panels):
        sheet.paste(panel.resize((width, PANEL_HEIGHT_PX)), (number * width, CAPTION_PX))
        draw.text((number * width + 4, 3), caption, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "JPEG", quality=88)
