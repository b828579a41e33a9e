"""COCO's run lengths to pixels: the inverse of `segserve.encode.rles`, where the format and its source are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_BITS = 60  # as many fit an int64; without a limit a text of megabytes is a number that takes minutes


def decode(counts: str | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """bool (height, width) of compressed (text) or plain run lengths.

    Raises ValueError: a character that is none, a run of more pixels than there are, or runs that don't add up to
    height x width.
    """
    given = _from_text(counts) if isinstance(counts, str) else counts
    try:
        lengths = np.array(given, np.int64)
    except OverflowError:
        raise ValueError(f"a run that is too long, expected at most {height * width} pixels") from None
    if (
        lengths.ndim != 1 or (lengths < 0).any() or (lengths > height * width).any()
    ):  # whose sum may wrap around
        raise ValueError(f"a run that is none, expected 0 to {height * width} pixels")
    if lengths.sum() != height * width:
        raise ValueError(f"runs of {lengths.sum()} pixels, expected {height * width}")
    inside = np.arange(lengths.size) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def _from_text(text: str) -> list[int]:
    lengths: list[int] = []
    number, shift = 0, 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"{character!r} is no character of a run length")
        if shift > MAX_BITS:
            raise ValueError(f"a run of more than {MAX_BITS} bits")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number, shift = 0, 0
    return lengths
