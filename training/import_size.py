"""How large the images are that an imported model will be served with, and who said so.

    size = input_size(None, None, habits)
    size.height, size.reason

No tensor shows it, and the network takes any size; but one that was trained on crops of 512 x 1024 knows things as
large as they are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.foreign_config import Habits, Sides

SMALLEST_INPUT = 33
LARGEST_INPUT = 8192  # of a side that is served (segserve.spec)
DEFAULT = (473, 473)  # semseg's, for ADE20K and VOC
CROPS = "the file's configuration has crops of"
ANOTHER = "--input-height, --input-width"


@dataclass(frozen=True)
class InputSize:
    """`reason`: in words, who said it."""

    height: int
    width: int
    reason: str

    def __str__(self) -> str:
        return shown((self.height, self.width))


def shown(sides: Sides) -> str:
    return f"{sides[0]} x {sides[1]}"


def input_size(height: int | None, width: int | None, said: Habits) -> InputSize:
    """The options; where they say nothing, the file's crops; where nobody says, or those can't be served, semseg's."""
    sides, whose = _unless_given(said.crop)
    if height is None and width is None:
        return InputSize(*sides, whose)
    if height is not None and width is not None:
        trained = "" if said.crop is None else f"; {CROPS} {shown(said.crop)}"
        return InputSize(height, width, f"as the options say{trained}")
    option, other = ("height", "width") if width is None else ("width", "height")
    return InputSize(height or sides[0], width or sides[1], f"{option} as the option says, {other} {whose}")


def _unless_given(crop: Sides | None) -> tuple[Sides, str]:
    if crop is None:
        return DEFAULT, "as semseg has it, because nobody says it"
    if min(crop) >= SMALLEST_INPUT and max(crop) <= LARGEST_INPUT:
        return crop, f"as trained: {CROPS} {shown(crop)}"
    cannot = f"cannot be served (a side is {SMALLEST_INPUT} to {LARGEST_INPUT})"
    return DEFAULT, f"as semseg has it: {CROPS} {shown(crop)}, which {cannot}"


def remarks(size: InputSize, said: Habits, *, trunk: bool) -> list[str]:
    """Lines for people."""
    if trunk:
        return [f"input {size} is not used: a training has its own (--crop-height, --input-height)"]
    lines = [f"input {size} (height x width), {size.reason}; another: {ANOTHER}"]
    if said.test == "slide":
        lines.append(
            "its own test slides windows over the photo (mode slide); here the whole photo is made to fit the input, "
            f"and what it shows is smaller than it was trained with unless the input is larger ({ANOTHER})"
        )
    return lines
