"""The size that an import gives: the options', the crops' of the file's configuration, or semseg's, and who said it."""

from __future__ import annotations

from pathlib import Path

import pytest

from segserve.errors import UsageError
from training.foreign_config import Habits
from training.import_options import ImportConfig
from training.import_size import input_size, remarks

CROPS = Habits(crop=(512, 1024))


@pytest.mark.parametrize(
    ("height", "width", "said", "size", "reason"),
    [
        (None, None, Habits(), (473, 473), "as semseg has it, because nobody says it"),
        (None, None, CROPS, (512, 1024), "as trained: the file's configuration has crops of 512 x 1024"),
        (100, 200, Habits(), (100, 200), "as the options say"),
        (100, 200, CROPS, (100, 200), "as the options say; the file's configuration has crops of 512 x 1024"),
        (100, None, CROPS, (100, 1024), "height as the option says, width as trained: "),
        (None, 200, CROPS, (512, 200), "width as the option says, height as trained: "),
        (None, 200, Habits(), (473, 200), "width as the option says, height as semseg has it"),
        # no size that the options or a server would take
        (None, None, Habits(crop=(8, 64)), (473, 473), "of 8 x 64, which cannot be served (a side is 33 to 8192)"),
        (None, None, Habits(crop=(64, 9000)), (473, 473), "of 64 x 9000, which cannot be served"),
    ],
)  # fmt: skip
def test_who_says_it(
    height: int | None, width: int | None, said: Habits, size: tuple[int, int], reason: str
) -> None:
    got = input_size(height, width, said)
    assert (got.height, got.width) == size
    assert reason in got.reason


def test_windows_are_told() -> None:
    size = input_size(None, None, CROPS)
    assert len(remarks(size, CROPS, trunk=False)) == 1
    said = Habits(crop=(512, 1024), test="slide")
    assert "slides windows over the photo (mode slide)" in remarks(size, said, trunk=False)[1]


@pytest.mark.parametrize(("option", "side"), [("input_height", 32), ("input_width", 0)])
def test_a_side_that_is_too_small_is_named(option: str, side: int) -> None:
    sides = {"input_height": 64, "input_width": 64, option: side}
    with pytest.raises(UsageError, match=rf"--{option.replace('_', '-')} {side}: expected 33 or more"):
        ImportConfig((Path("a.pth"),), Path("b.safetensors"), **sides)  # type: ignore[arg-type]
