"""Find images that show the same thing: a photo saved anew, scaled, or mirrored, the next frame of a clip.

A difference hash (dHash: 64 bits, each whether a cell of a 9 x 8 grey thumbnail is darker than its neighbour; Krawetz,
"Kind of Like That", 2013) finds candidates among all pairs at once, a 16 x 16 colour thumbnail confirms them: plain
walls have hashes of noise, and different rooms can share one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_BITS_APART = 10
"""Of 64. Of 217 photos of four sets, halved and saved at JPEG quality 30, as they are and mirrored, none was missed."""
MEAN_APART = 6.0
"""Of 255: mean difference of two thumbnails of the same mean brightness. Those copies: 1.6 at most."""
CONTRAST_SHARE = 0.25
"""And of the mean contrast of the flatter one: of two nearly white photos all differences are small."""
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


def pairs(fingerprints: list[Fingerprint]) -> list[tuple[int, int]]:
    """Index pairs (low, high) of images that show the same thing, mirrored ones among them."""
    found: set[tuple[int, int]] = set()
    plain = np.array([print_.plain for print_ in fingerprints], np.uint64)
    mirrored = np.array([print_.mirrored for print_ in fingerprints], np.uint64)
    thumbnails = np.array([print_.thumbnail for print_ in fingerprints], np.uint8)
    for start in range(0, len(plain), BLOCK):
        rows = plain[start : start + BLOCK, None]
        for others, flip in ((plain, False), (mirrored, True)):
            # in blocks, because all pairs of 10,000 images at once would take gigabytes
            close = np.bitwise_count(rows ^ others[None, start:]) <= HASH_BITS_APART
            candidates = start + np.argwhere(np.triu(close, 1))
            for first in range(0, len(candidates), BLOCK):
                some = candidates[first : first + BLOCK]
                near = alike(thumbnails[some[:, 0]], thumbnails[some[:, 1]], flip)
                found.update(map(tuple, some[near].tolist()))
    return sorted(found)


def alike(ones: NDArray[np.uint8], others: NDArray[np.uint8], flip: bool) -> NDArray[np.bool_]:
    """Which of the pairs of thumbnails, (N, 16, 16, 3) each, show the same thing; `flip` mirrors the others."""
    first, second = ones.astype(np.float32), (others[:, :, ::-1] if flip else others).astype(np.float32)
    first -= first.mean(axis=(1, 2, 3), keepdims=True)  # a brighter copy is a copy
    second -= second.mean(axis=(1, 2, 3), keepdims=True)
    apart = np.abs(first - second).mean(axis=(1, 2, 3))
    contrast = np.minimum(np.abs(first).mean(axis=(1, 2, 3)), np.abs(second).mean(axis=(1, 2, 3)))
    near: NDArray[np.bool_] = apart <= np.minimum(MEAN_APART, CONTRAST_SHARE * contrast)
    return near


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
