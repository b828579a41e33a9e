"""Find images that show the same thing: a photo saved anew, scaled, or mirrored, the next frame of a clip.

A difference hash (dHash: 64 bits, each whether a cell of a 9 x 8 grey thumbnail is darker than its neighbour; Krawetz,
"Kind of Like That", 2013) finds candidates among all pairs at once, a 16 x 16 colour thumbnail confirms them: plain
walls have hashes of noise, and different rooms can share one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_BITS_APART = 10
"""Of 64. Halving a photo and saving it at JPEG quality 30 changed 6 at most (430 photos of four sets)."""
MEAN_APART = 6.0
"""Of 255: mean difference of two thumbnails of the same mean brightness. The same photos as above: 1.6 at most."""
THUMBNAIL_SIDE = 16
BLOCK = 1024


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image: 8 + 8 + 768 bytes."""

    plain: int  # dHash, unsigned 64 bits
    mirrored: int  # of the image flipped left to right
    thumbnail: NDArray[np.uint8]  # (16, 16, 3)


def fingerprint(rgb: Image.Image) -> Fingerprint:
    """Of an upright photo. No `reducing_gap`: quicker, but a photo at half size became another (14 bits)."""
    small = rgb.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    grey = rgb.convert("L").resize((9, 8), Image.Resampling.BOX)
    cells = np.asarray(grey)
    return Fingerprint(_dhash(cells), _dhash(cells[:, ::-1]), np.asarray(small))


def _dhash(cells: NDArray[np.uint8]) -> int:
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes(), "big")


def pairs(fingerprints: list[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Index pairs (low, high) of images that show the same thing, mirrored ones among them."""
    plain = np.array([print_.plain for print_ in fingerprints], np.uint64)
    mirrored = np.array([print_.mirrored for print_ in fingerprints], np.uint64)
    for start in range(0, len(plain), BLOCK):
        rows = plain[start : start + BLOCK, None]
        for others, flip in ((plain, False), (mirrored, True)):
            # in blocks, because all pairs of 10,000 images at once would take gigabytes
            close = np.bitwise_count(rows ^ others[None, start:]) <= HASH_BITS_APART
            for row, column in np.argwhere(np.triu(close, 1)).tolist():
                low, high = start + row, start + column
                if apart(fingerprints[low].thumbnail, fingerprints[high].thumbnail, flip) <= MEAN_APART:
                    yield low, high


def apart(one: NDArray[np.uint8], other: NDArray[np.uint8], flip: bool) -> float:
    """Mean difference of two thumbnails (16, 16, 3) whose mean brightness was made equal; `flip` mirrors the second."""
    first, second = one.astype(np.float32), (other[:, ::-1] if flip else other).astype(np.float32)
    return float(np.abs((first - first.mean()) - (second - second.mean())).mean())


def groups(count: int, linked: list[tuple[int, int]]) -> list[int]:
    """For each of `count` things the lowest index that it is linked with, directly or through others (union-find)."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in linked:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(index) for index in range(count)]
