"""A version that comes into service mid-run is judged from its first answer, whatever the load asks for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.judge import Answer
from benchmarks.known_masks import Masks
from segserve.errors import CheckFailed
from tests.unit.test_judge import MASK, ONE_PIXEL_OFF, A, answer_of, json_with

LABEL_MAPS = ("png", "npy", "json")


def started() -> Masks:
    """The version in service was asked when it was quiet."""
    masks = Masks(num_classes=3)
    masks.check(A, answer_of("png"))
    return masks


def newer(answer: Answer) -> Answer:
    """The same from version 2.0, which has said nothing so far."""
    body = answer.body
    if answer.format == "json":
        found = json.loads(body)
        found["model"]["version"] = "2.0"
        body = json.dumps(found).encode()
    return dataclasses.replace(answer, version="2.0", body=body)


@pytest.mark.parametrize("then", LABEL_MAPS)
@pytest.mark.parametrize("first", LABEL_MAPS)
def test_each_format_that_holds_a_label_map_teaches_it(first: str, then: str) -> None:
    masks, with_holes = started(), np.where(MASK == 1, 255, MASK).astype(np.uint8)
    masks.check(A, newer(answer_of(first, with_holes)), (first,))
    masks.check(A, newer(answer_of(then, with_holes)), (first, then))
    with pytest.raises(CheckFailed, match=r"mask (of|than) version 2\.0"):
        masks.check(A, newer(answer_of(then, ONE_PIXEL_OFF)), (first, then))


@pytest.mark.parametrize("first", LABEL_MAPS)
def test_the_first_label_map_must_be_one_and_like_that_of_the_package(first: str) -> None:
    masks, asked = started(), (first,)
    masks.expect("a", "2.0", MASK)
    whole = newer(answer_of(first))
    for wrong, reason in (
        (dataclasses.replace(whole, body=b"garbage"), "not (a|an|the) "),
        (newer(answer_of(first, np.ascontiguousarray(MASK.T))), "size"),
        (newer(answer_of(first, ONE_PIXEL_OFF)), r"not the mask of the package of version 2\.0"),
    ):
        with pytest.raises(CheckFailed, match=reason):
            masks.check(A, wrong, asked)
    masks.check(A, whole, asked)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pixels": 5}, "other pixels or another RLE"),
        ({"id": 3}, "no classes"),
        ({"id": 255}, "other pixels or another RLE"),
        ({"id": 300}, "not the JSON"),
        ({"id": 1}, "other pixels or another RLE"),  # twice the same one
        ({"name": "floor"}, "same name"),
        ({"rle": {"size": [3, 4], "counts": "zzz"}}, "not the JSON"),
    ],
)
def test_a_first_json_that_contradicts_itself_is_not_learnt(changes: dict[str, object], reason: str) -> None:
    masks = started()
    with pytest.raises(CheckFailed, match=reason):
        masks.check(A, newer(json_with(**changes)), ("json",))
    masks.check(A, newer(answer_of("json", ONE_PIXEL_OFF)), ("json",))


@pytest.mark.parametrize("asked", [("overlay",), ("json", "npy", "overlay")])
def test_an_overlay_that_can_never_be_judged_fails(asked: Sequence[str]) -> None:
    """A label map alone is not enough: only PNG tells the colours."""
    masks = started()
    for other in asked[:-1]:
        masks.check(A, newer(answer_of(other)), asked)
    with pytest.raises(CheckFailed, match=r"what version 2\.0 shows; ask for png as well \(--formats\)"):
        masks.check(A, newer(answer_of("overlay")), asked)
    masks.check(A, answer_of("overlay"), asked)  # of the version whose PNG is known


@pytest.mark.parametrize("first", LABEL_MAPS)
def test_an_overlay_passes_until_it_can_be_judged_if_it_is_a_picture_of_that_size(first: str) -> None:
    masks, turned = started(), np.ascontiguousarray(MASK.T)
    wrong = newer(answer_of("overlay", np.full_like(MASK, 2)))
    masks.check(A, wrong)
    for broken, reason in (
        (dataclasses.replace(wrong, body=b"garbage"), "whole JPEG"),
        (newer(answer_of("overlay", turned)), "size of the overlay"),
    ):
        with pytest.raises(CheckFailed, match=reason):
            masks.check(A, broken)
    masks.check(A, newer(answer_of(first)))
    masks.check(A, newer(answer_of("png")))
    masks.check(A, newer(answer_of("overlay")))
    with pytest.raises(CheckFailed, match=r"overlay: another picture than the mask of version 2\.0"):
        masks.check(A, wrong)
