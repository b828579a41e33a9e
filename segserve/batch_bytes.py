"""How many bytes the replies of one batch may have together, so that none holds up its neighbours.

TorchServe reads a batch's replies in pieces of 64 KiB, and with each piece copies anew every reply that is already
complete (ModelResponseDecoder of 0.12). One reply alone is never copied twice, eight of 12 MB are copied for 45 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_PIECE_BYTES: Final = 65_536
MAX_COPIED_BYTES: Final = 8_000_000_000
"""About 5 s on a slow core. Up to 4 MB each, 8 replies always fit."""


def do_not_fit(sizes_bytes: Sequence[int]) -> set[int]:
    """Positions of the replies that the batch is better sent without: the largest, as few as possible.

    One alone is never among them, so whoever gets none is told to come again.
    """
    kept = copied = 0
    left_out = set()
    for position in sorted(range(len(sizes_bytes)), key=lambda position: sizes_bytes[position]):
        size = sizes_bytes[position]
        copied += kept * size // _PIECE_BYTES  # whichever comes first: the product is the same
        if copied > MAX_COPIED_BYTES:
            left_out.add(position)
        else:
            kept += size
    return left_out
