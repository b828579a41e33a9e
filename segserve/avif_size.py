"""How many pixels the AV1 pictures inside an AVIF have, which the container around them does not have to say.

Pillow and the check of its size go by the container (`ispe`). The decoder goes by AV1's own headers, and makes what
they say: an AVIF of 846 bytes that declared 16 x 16 pixels had it make 4096 x 4096, and then scale them down.

Those headers (segserve.av1_header) stand in the data of each item, and of the first sample of each track (Pillow
decodes no other). What cannot be followed here is left to the decoder: it refuses what has no such headers, and what
has more than 268 megapixels. ISO/IEC 14496-12 (boxes), 23008-12 (items); AV1 specification, 5.3 (OBUs).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from segserve import av1_header
from segserve.errors import BadImage, ImageTooLarge

MAX_STEPS: Final = 100_000
"""Boxes, extents and OBUs that are looked at, some 0.1 s. A photo has a hundred, a grid of 256 photos 3,000."""
MAX_PICTURES: Final = 4
"""How often the limit on pixels all AV1 pictures of a file may reach together: tiles of a grid, transparency, a
gain map, a thumbnail."""

_INSIDE: Final = {b"moov": b"trak", b"trak": b"mdia", b"mdia": b"minf", b"minf": b"stbl"}
"""Which box of a track lies in which; only those are gone into, so that boxes without end end here."""


def check(data: bytes | bytearray, max_pixels: int) -> None:
    """Raises: ImageTooLarge for a picture inside that has more pixels, BadImage for too many pieces."""
    areas = _Avif(data).areas()
    if max(areas, default=0) > max_pixels:
        raise ImageTooLarge(
            f"the picture inside the AVIF has {max(areas):,} pixels, {max_pixels:,} are allowed; scale it down and "
            "send it again"
        )
    if sum(areas) > MAX_PICTURES * max_pixels:
        raise ImageTooLarge(
            f"the {len(areas):,} pictures inside the AVIF have {sum(areas):,} pixels together, "
            f"{MAX_PICTURES * max_pixels:,} are allowed; scale it down, or save it as PNG or JPEG of 8 bits"
        )


class _OutOfData(Exception):
    """A field that lies behind the end of its box or file."""


@dataclass
class _Fields:
    """Big-endian numbers, one after the other."""

    data: memoryview
    position: int = 0

    def number(self, num_bytes: int) -> int:
        """Raises: _OutOfData."""
        start, self.position = self.position, self.position + num_bytes
        if self.position > len(self.data):
            raise _OutOfData
        return int.from_bytes(self.data[start : self.position], "big")


class _Avif:
    """One file, gone through once."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = memoryview(data)
        self._steps_left = MAX_STEPS
        self._bytes_left = MAX_PICTURES * len(data)

    def areas(self) -> list[int]:
        """Width x height of each picture that can be found."""
        found: list[int] = []
        for kind, body in self._boxes(self._data):
            if kind == b"meta":
                pieces = self._items(body[4:])
            elif kind == b"moov":
                pieces = self._samples(kind, body)
            else:
                continue
            for piece in pieces:
                found += av1_header.areas(self._obus(piece))
        return found

    def _step(self, num_bytes: int = 0) -> None:
        self._steps_left -= 1
        self._bytes_left -= num_bytes
        if self._steps_left < 0 or self._bytes_left < 0:
            raise BadImage("the AVIF is cut into too many pieces; save it anew and send that")

    def _boxes(self, data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
        """Type and body of each box, up to the first that makes no sense."""
        while len(data) >= 8:
            self._step()
            size, head = int.from_bytes(data[:4], "big"), 8
            if size == 1:
                size, head = int.from_bytes(data[8:16], "big"), 16
            size = size or len(data)
            if not head <= size <= len(data):
                return
            yield bytes(data[4:8]), data[head:size]
            data = data[size:]

    def _items(self, meta: memoryview) -> Iterator[memoryview]:
        """The data of each AV1 item."""
        boxes = dict(self._boxes(meta))
        coded = set(self._coded_items(_Fields(boxes.get(b"iinf", meta[:0]))))
        inside = boxes.get(b"idat", meta[:0])
        try:
            for item, from_inside, extents in self._locations(_Fields(boxes.get(b"iloc", meta[:0]))):
                if item in coded:
                    source = inside if from_inside else self._data
                    parts = [source[start : start + length] for start, length in extents]
                    self._step(sum(map(len, parts)))
                    yield parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        except _OutOfData:
            return

    def _coded_items(self, iinf: _Fields) -> Iterator[int]:
        """Their numbers."""
        for kind, body in self._boxes(iinf.data[6 if bytes(iinf.data[:1]) == b"\0" else 8 :]):
            width = 4 if bytes(body[:1]) == b"\3" else 2
            if kind == b"infe" and bytes(body[width + 6 : width + 10]) == b"av01":
                yield int.from_bytes(body[4 : 4 + width], "big")

    def _locations(self, iloc: _Fields) -> Iterator[tuple[int, bool, list[tuple[int, int]]]]:
        """Of each item its number, whether its data lie in `idat`, and where: (start, length) of its extents.

        Raises: _OutOfData.
        """
        version, _, widths = iloc.number(1), iloc.number(3), iloc.number(2)
        offset, length, base, index = (widths >> shift & 15 for shift in (12, 8, 4, 0))
        wide = 4 if version == 2 else 2
        for _ in range(iloc.number(wide)):
            item = iloc.number(wide)
            from_inside = bool(version and iloc.number(2) & 15)
            iloc.number(2)  # which file; it has to be this one
            start, extents = iloc.number(base), []
            for _ in range(iloc.number(2)):
                self._step()
                if version:
                    iloc.number(index)
                extents.append((start + iloc.number(offset), iloc.number(length)))
            yield item, from_inside, extents

    def _samples(self, kind: bytes, body: memoryview) -> Iterator[memoryview]:
        """The first sample of each track below."""
        boxes: dict[bytes, memoryview] = {}
        for inner, inner_body in self._boxes(body):
            boxes[inner] = inner_body
            if inner == _INSIDE.get(kind):
                yield from self._samples(inner, inner_body)
        width, offsets = (8, boxes[b"co64"]) if b"co64" in boxes else (4, boxes.get(b"stco"))
        if offsets is None or b"stsz" not in boxes:
            return
        sizes = boxes[b"stsz"]
        size = int.from_bytes(sizes[4:8], "big") or int.from_bytes(sizes[12:16], "big")
        start = int.from_bytes(offsets[8 : 8 + width], "big")
        yield self._data[start : start + size]

    def _obus(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Type and body of each piece of AV1 data."""
        while len(data) >= 2:
            self._step()
            head = data[0]
            position, size = 2 if head & 4 else 1, len(data)
            if head & 2:  # its size follows, 7 bits a byte, the lowest first
                size = 0
                for shift in range(0, 56, 7):
                    byte = data[position] if position < len(data) else 0
                    position, size = position + 1, size | (byte & 127) << shift
                    if byte < 128:
                        break
            yield head >> 3 & 15, data[position : position + size]
            data = data[position + size :]
