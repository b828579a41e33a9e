"""How often a JPEG's picture is gone over: a small file can repeat a scan a thousand times, and a decoder follows.

A progressive JPEG refines the whole picture scan by scan, and so may a baseline one that keeps its channels apart.
Cameras and encoders write about ten scans. Each costs the decoder some 2 ns for every pixel even if it holds
nothing, so 350 kB of empty scans at 64 megapixels keep a core busy for minutes. Markers: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
from typing import Final

from segserve.errors import BadImage

MAX_SCANNED_PIXELS: Final = 3_000_000_000
"""Scans x pixels: about 6 s, and 46 scans of the largest photo (64 megapixels)."""
MAX_SEGMENTS: Final = 1_000
"""Of any kind. Files have some tens, a colour profile at most 255; Pillow keeps each, so this is asked before it opens
a file. Of EXIF it copies all that it has for each further segment, with Python's lock held: 1.6 s for a file of 33 MB
in 1,000 of them, 11 s in 10,000."""

_START_OF_IMAGE: Final = 0xD8
_END_OF_IMAGE: Final = 0xD9
_START_OF_SCAN: Final = 0xDA
# FF 00 is a byte of data, FF FF filling, FF D0 to FF D7 and FF 01 stand alone
_MARKER: Final = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")


def check(scans: int, num_pixels: int) -> None:
    """Raises: BadImage if decoding would take far longer than a picture of that size needs."""
    allowed = MAX_SCANNED_PIXELS // max(num_pixels, 1)
    if scans > allowed:
        raise BadImage(
            f"the JPEG goes over its {num_pixels:,} pixels more than {allowed} times, which no photo needs; "
            "save it anew and send that"
        )


def count(data: bytes | bytearray) -> int:
    """Scans of the first picture in a JPEG file; thumbnails don't count. Some 0.5 ms for each MB.

    Of a file that is no JPEG: 0. Raises: BadImage if it has no end of segments.
    """
    if data[:2] != b"\xff\xd8":
        return 0
    scans, position = 0, 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        # the decoder gives up on a second start
        if found is None or (marker := found[1][0]) in (_END_OF_IMAGE, _START_OF_IMAGE):
            return scans
        scans += marker == _START_OF_SCAN
        # behind the marker: two bytes with the length of the segment, themselves included
        position = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    raise BadImage(f"the JPEG has more than {MAX_SEGMENTS:,} segments; save it anew and send that")
