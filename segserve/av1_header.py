"""How large the pictures of AV1 data are, from their headers alone (AV1 specification, 5.5 and 5.9).

The sequence header says how large, and in how many bits a size is written. A frame may name a size of its own in as
many bits, and decoders make that, even if it is larger: 2048 x 2048 behind a header of 16 x 16. No photo has such
frames. For one that has, what counts is the largest size that can be written in those bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SEQUENCE_HEADER: Final = 1
_FRAMES: Final = frozenset((3, 6))
"""OBUs that begin with the header of a frame."""
_KEY, _SWITCH = 0, 3
"""Types of frames."""
_IN_EACH_FRAME: Final = 2
"""Where a sequence header leaves it to each frame whether it has a tool for screen content or whole motion vectors."""
_MAX_HEADER_BYTES: Final = 512
"""With all that is optional, and for 32 operating points, a sequence header has 400."""


def areas(obus: Iterable[tuple[int, memoryview]]) -> list[int]:
    """Of each sequence header, width x height of the largest picture behind it. Args: type and body of each OBU."""
    found: list[int] = []
    sequence = None
    for kind, body in obus:
        start = _Bits(body[:_MAX_HEADER_BYTES])
        try:
            if kind == _SEQUENCE_HEADER:
                sequence = None  # also if this one is cut short
                sequence = _Sequence.read(start)
                found.append(sequence.area)
            elif kind in _FRAMES and sequence and sequence.has_own_size(start):
                found[-1] = sequence.largest_area
        except _OutOfData:
            continue
    return found


class _OutOfData(Exception):
    """A field that lies behind the end."""


class _Bits:
    """Numbers of any width in bits, the highest bit first."""

    def __init__(self, data: memoryview) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def number(self, width: int) -> int:
        """Raises: _OutOfData."""
        self._left -= width
        if self._left < 0:
            raise _OutOfData
        return self._value >> self._left & ((1 << width) - 1)

    def skip_uvlc(self) -> None:
        """A number that is as long as the zeros before it. Raises: _OutOfData."""
        zeros = 0
        while not self.number(1):
            zeros += 1
        self.number(zeros if zeros < 32 else 0)


@dataclass(frozen=True)
class _Sequence:
    """What a sequence header says of sizes, and what it takes to find them in the header of a frame."""

    area: int
    largest_area: int
    short: bool
    """Of a still picture: its frame has no size of its own."""
    time_width: int
    """Bits of a time in the header of each frame that is shown."""
    id_width: int
    screen_content: int
    whole_vectors: int

    @classmethod
    def read(cls, bits: _Bits) -> _Sequence:
        """Raises: _OutOfData."""
        bits.number(3 + 1)  # profile, whether it is a still picture
        short, time_width = bool(bits.number(1)), 0
        if short:
            bits.number(5)
        else:
            time_width = _timing_and_points(bits)
        width_bits, height_bits = bits.number(4) + 1, bits.number(4) + 1
        area = (bits.number(width_bits) + 1) * (bits.number(height_bits) + 1)
        largest = 1 << width_bits + height_bits
        rest = (0, 0, 0) if short else _identities_and_tools(bits)
        return cls(area, largest, short, time_width, *rest)

    def has_own_size(self, frame: _Bits) -> bool:
        """Raises: _OutOfData."""
        if self.short or frame.number(1):  # an earlier frame is shown again
            return False
        kind, shown = frame.number(2), frame.number(1)
        frame.number(self.time_width if shown else 1)
        if kind != _SWITCH and not (kind == _KEY and shown):
            frame.number(1)
        frame.number(1)
        screen_content = frame.number(1) if self.screen_content == _IN_EACH_FRAME else self.screen_content
        if screen_content and self.whole_vectors == _IN_EACH_FRAME:
            frame.number(1)
        frame.number(self.id_width)
        return kind == _SWITCH or bool(frame.number(1))


def _timing_and_points(bits: _Bits) -> int:
    """Returns: bits of the time of a frame. Raises: _OutOfData."""
    delay_width = time_width = 0
    if bits.number(1):  # timing
        bits.number(32 + 32)
        if even := bits.number(1):
            bits.skip_uvlc()
        if bits.number(1):  # decoder model
            delay_width = bits.number(5) + 1
            bits.number(32 + 5)
            time_width = bits.number(5) + 1
            time_width = 0 if even else time_width
    display_delays = bits.number(1)
    for _ in range(bits.number(5) + 1):  # operating points
        bits.number(12)
        if bits.number(5) > 7:  # the level
            bits.number(1)
        if delay_width and bits.number(1):
            bits.number(2 * delay_width + 1)
        if display_delays and bits.number(1):
            bits.number(4)
    return time_width


def _identities_and_tools(bits: _Bits) -> tuple[int, int, int]:
    """Returns: bits of a frame's number, and who says whether there are those tools. Raises: _OutOfData."""
    id_width = 0
    if bits.number(1):
        id_width = bits.number(4) + bits.number(3) + 3
    bits.number(3 + 4)
    if bits.number(1):  # frames have an order
        bits.number(2)
    screen_content = _IN_EACH_FRAME if bits.number(1) else bits.number(1)
    whole_vectors = _IN_EACH_FRAME
    if screen_content and not bits.number(1):
        whole_vectors = bits.number(1)
    return id_width, screen_content, whole_vectors
