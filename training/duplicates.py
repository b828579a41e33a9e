"""Find images that show the same thing: a photo saved anew, scaled, or mirrored, the next frame of a clip.

A difference hash (dHash: 64 bits, each whether a cell of a 9 x 8 grey thumbnail is darker than its neighbour; Krawetz,
"Kind of Like That", 2013) finds candidates among all pairs at once, a 16 x 16 colour thumbnail confirms them: plain
walls have hashes of noise, and different rooms can share one.
"""

from __future__ import annotations

from collections.abc import Sequence
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
BLOCK, WINDOW, AT_ONCE = 256, 16_384, 256
"""Images whose hashes are compared with all, pairs that are looked through together, thumbnails that are."""


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


def links(fingerprints: list[Fingerprint], ranks: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Index pairs (low, high) of images that show the same thing, mirrored ones among them: not all, but enough.

    They join all images that do, directly or through others. And each image that shows the same as one of a higher rank
    (`ranks`, one for each) has a pair with such a one. A camera that stands still makes millions of pairs.
    """
    found = _Links(len(fingerprints), ranks)
    plain = np.array([print_.plain for print_ in fingerprints], np.uint64)
    mirrored = np.array([print_.mirrored for print_ in fingerprints], np.uint64)
    thumbnails = np.array([print_.thumbnail for print_ in fingerprints], np.uint8)
    for start in range(0, len(plain), BLOCK):
        rows = plain[start : start + BLOCK, None]
        for others, flip in ((plain, False), (mirrored, True)):
            # in blocks, because all pairs of 10,000 images at once would take gigabytes
            close = np.bitwise_count(rows ^ others[None, start:]) <= HASH_BITS_APART
            candidates = start + np.argwhere(np.triu(close, 1))
            for first in range(0, len(candidates), WINDOW):
                found.confirm(candidates[first : first + WINDOW], thumbnails, flip)
    return sorted(found.links)


class _Links:
    """The links so far, and with them which further ones would tell anything new."""

    def __init__(self, count: int, ranks: Sequence[int]) -> None:
        self.links: list[tuple[int, int]] = []
        self.ranks = np.array(ranks or [0] * count)
        self.root = np.arange(count)  # the lowest index of the group
        self.outranked = np.zeros(count, np.bool_)

    def confirm(self, candidates: NDArray[np.intp], thumbnails: NDArray[np.uint8], flip: bool) -> None:
        """Take up those of the pairs (N, 2) that show the same thing, as far as they tell anything."""
        waiting = candidates[self._tells(candidates)]
        while len(waiting):
            some, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            near = some[alike(thumbnails[some[:, 0]], thumbnails[some[:, 1]], flip)]
            for low, high in near.tolist():
                self._add(low, high)
            if len(near):
                waiting = waiting[self._tells(waiting)]

    def _tells(self, pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of the pairs (N, 2) join two groups, or are the first with a higher rank of the lower one."""
        ranks, root = self.ranks[pairs], self.root[pairs]
        lower = pairs[np.arange(len(pairs)), ranks.argmin(axis=1)]
        tells: NDArray[np.bool_] = (root[:, 0] != root[:, 1]) | (
            (ranks[:, 0] != ranks[:, 1]) & ~self.outranked[lower]
        )
        return tells

    def _add(self, low: int, high: int) -> None:
        """Once more only what tells anything: of those looked at together another one may have told it."""
        loser = low if self.ranks[low] < self.ranks[high] else high
        outranks = self.ranks[low] != self.ranks[high] and not self.outranked[loser]
        kept, joined = sorted((self.root[low], self.root[high]))
        if outranks or kept != joined:
            self.links.append((low, high))
        if outranks:
            self.outranked[loser] = True
        if kept != joined:
            self.root[self.root == joined] = kept


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
