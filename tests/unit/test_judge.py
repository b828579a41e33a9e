"""What the load test lets pass, and what it does not."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
from tokenize import TokenError
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.judge import Answer, judge, read_mask, words_of
from benchmarks.known_masks import Masks
from benchmarks.photos import Photo
from benchmarks.truth import Truth
from segserve import answer
from segserve.errors import CheckFailed
from segserve.request import CONTENT_TYPES
from tests.specs import make_spec

SPEC = make_spec()
MASK: NDArray[np.uint8] = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 2, 2]], np.uint8)
ONE_PIXEL_OFF = np.where(np.arange(12).reshape(3, 4) == 5, 1, MASK).astype(np.uint8)
GREY = 100


def photo_of(labels: NDArray[np.uint8], name: str = "a") -> Photo:
    """A grey one, of that size."""
    file = io.BytesIO()
    Image.new("RGB", labels.shape[::-1], (GREY, GREY, GREY)).save(file, "PNG")
    return Photo(name, file.getvalue(), *labels.shape)


A, B = photo_of(MASK), photo_of(MASK, "b")


def truth_of(labels: NDArray[np.uint8] = MASK) -> Truth:
    return Truth(photo_of(labels), labels, SPEC.palette_rgb)


def answer_of(answer_format: str, labels: NDArray[np.uint8] = MASK) -> Answer:
    """What the server answers for this label map."""
    photo = np.full((*labels.shape, 3), GREY, np.uint8)
    body = answer.body(
        answer_format, labels, photo, SPEC, class_ids=None, timings_ms={"engine": 1.0}, max_bytes=10_000
    )
    return Answer(answer_format, SPEC.version, CONTENT_TYPES[answer_format], body)


def json_with(**changes: Any) -> Answer:
    """The right JSON, but for these fields of its first class."""
    found = json.loads(answer_of("json").body)
    found["classes"][0].update(changes)
    return dataclasses.replace(answer_of("json"), body=json.dumps(found).encode())


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_right_answers_pass(answer_format: str) -> None:
    judge(answer_of(answer_format), truth_of(), {})


def test_a_quiet_png_is_read_as_the_mask() -> None:
    np.testing.assert_array_equal(read_mask(answer_of("png"), (3, 4), 3), MASK)


@pytest.mark.parametrize("answer_format", ["png", "json", "npy"])
def test_one_wrong_pixel_is_seen(answer_format: str) -> None:
    with pytest.raises(CheckFailed, match=r"mask (of|than) version 1\.2"):
        judge(answer_of(answer_format, ONE_PIXEL_OFF), truth_of(), {})


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_another_size_is_seen(answer_format: str) -> None:
    with pytest.raises(CheckFailed, match="size"):
        judge(answer_of(answer_format, np.ascontiguousarray(MASK.T)), truth_of(), {})


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_half_an_answer_is_seen(answer_format: str) -> None:
    whole = answer_of(answer_format)
    with pytest.raises(CheckFailed):
        judge(dataclasses.replace(whole, body=whole.body[: len(whole.body) // 2]), truth_of(), {})


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_another_content_type_is_seen(answer_format: str) -> None:
    with pytest.raises(CheckFailed, match="content type: got text/html"):
        judge(dataclasses.replace(answer_of(answer_format), content_type="text/html"), truth_of(), {})


@pytest.mark.parametrize("answer_format", ["png", "npy"])
def test_ids_that_are_no_classes_are_seen(answer_format: str) -> None:
    with pytest.raises(CheckFailed, match="no classes"):
        judge(answer_of(answer_format), Truth(A, MASK, SPEC.palette_rgb[:2]), {})


def test_left_out_pixels_are_no_class_but_allowed() -> None:
    mask = np.where(MASK == 2, 255, MASK).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(answer_of("png", mask), (3, 4), 3), mask)


def test_a_picture_of_colours_is_no_label_map() -> None:
    file = io.BytesIO()
    Image.fromarray(MASK).convert("RGB").save(file, "PNG")
    with pytest.raises(CheckFailed, match="PNG mode: got RGB"):
        judge(Answer("png", "1.2", "image/png", file.getvalue()), truth_of(), {})


def test_json_is_compared_run_by_run_and_not_only_counted() -> None:
    """As many pixels of each class, in other places."""
    upside_down = answer_of("json", np.ascontiguousarray(MASK[::-1]))
    assert [c["pixels"] for c in json.loads(upside_down.body)["classes"]] == [6, 4, 2]
    with pytest.raises(CheckFailed, match=r"JSON: other pixels or another RLE than the mask of version 1\.2"):
        judge(upside_down, truth_of(), {})
    with pytest.raises(CheckFailed, match="another RLE"):
        judge(json_with(pixels=5), truth_of(), {})


def test_classes_have_the_names_of_their_package_or_those_that_they_had_before() -> None:
    names: dict[int, str] = {}
    judge(answer_of("json"), truth_of(), names)
    assert names == {0: "wall", 1: "floor", 2: "ceiling"}
    for known in (names, {0: "wall"}):
        with pytest.raises(CheckFailed, match="name of class 0 in JSON: got zzz, expected wall"):
            judge(json_with(name="zzz"), truth_of(), known)
    with pytest.raises(CheckFailed, match="two classes have the same name"):
        judge(json_with(name="floor"), truth_of(), {})
    with pytest.raises(CheckFailed, match="two classes have the same name"):
        judge(json_with(name="sofa"), truth_of(), {7: "sofa"})


def test_a_package_names_the_classes_of_its_version() -> None:
    masks = Masks(num_classes=3)
    masks.expect_names(SPEC.version, ("wall", "roof", "ceiling"))
    masks.check(A, answer_of("png"))
    with pytest.raises(CheckFailed, match="name of class 1 in JSON: got floor, expected roof"):
        masks.check(A, answer_of("json"))


def test_whatever_damage_does_to_an_answer_is_words() -> None:
    """An npy header whose brace is never closed, on which NumPy raises a TokenError, and a thousand more."""
    chance, truth = random.Random(0), truth_of()
    broken_header = answer_of("npy").body.replace(b"}", b" ")
    with pytest.raises(CheckFailed, match="not an npy file: TokenError"):
        judge(dataclasses.replace(answer_of("npy"), body=broken_header), truth, {})
    for answer_format in CONTENT_TYPES:
        right = answer_of(answer_format)
        for _ in range(300):
            body = bytearray(right.body)
            for _ in range(chance.choice((1, 2, 8))):
                body[chance.randrange(min(len(body), 200))] = chance.randrange(256)
            damaged = dataclasses.replace(right, body=bytes(body[: chance.choice((len(body), 60))]))
            with contextlib.suppress(CheckFailed):
                judge(damaged, truth, {})


def test_judging_that_fails_is_a_failed_answer() -> None:
    def judge(_: object) -> str | None:
        raise TokenError("EOF in multi-line statement", (2, 0))

    assert words_of(judge, "an answer") == (
        "could not be judged: TokenError: ('EOF in multi-line statement', (2, 0))"
    )
    assert words_of(lambda _: "another mask", "an answer") == "another mask"
    assert words_of(lambda _: None, "an answer") is None


def test_json_of_another_version_is_seen() -> None:
    with pytest.raises(CheckFailed, match=r"version in JSON: got 1\.2, expected 1\.3"):
        judge(dataclasses.replace(answer_of("json"), version="1.3"), truth_of(), {})


def test_masks_are_learnt_for_each_photo_and_version() -> None:
    masks = Masks(num_classes=3)
    masks.check(A, answer_of("png"))
    masks.check(B, answer_of("png", ONE_PIXEL_OFF))
    newer = dataclasses.replace(answer_of("png", ONE_PIXEL_OFF), version="1.3")
    masks.check(A, newer)
    masks.check(A, newer)
    masks.check(A, answer_of("npy"))
    with pytest.raises(CheckFailed, match="another mask"):
        masks.check(A, answer_of("png", ONE_PIXEL_OFF))
    with pytest.raises(CheckFailed, match="another mask"):
        masks.check(B, answer_of("npy"))


def test_a_first_mask_of_the_wrong_size_is_not_learnt() -> None:
    with pytest.raises(CheckFailed, match="size"):
        Masks(num_classes=3).check(photo_of(np.ascontiguousarray(MASK.T)), answer_of("png"))


def test_one_class_everywhere_is_no_segmentation() -> None:
    masks = Masks(num_classes=3)
    masks.check(A, answer_of("png", np.zeros_like(MASK)))
    with pytest.raises(CheckFailed, match="one class only"):
        masks.require_content()
    masks.check(B, answer_of("png", np.ones_like(MASK)))
    masks.require_content()


def test_masks_must_be_like_those_of_the_package() -> None:
    masks = Masks(num_classes=3)
    masks.expect("a", "1.2", ONE_PIXEL_OFF)
    with pytest.raises(CheckFailed, match=r"not the mask of the package of version 1\.2: 91\.67 %"):
        masks.check(A, answer_of("png"))
    masks.check(B, answer_of("png"))  # of which the package says nothing
    masks.check(A, answer_of("png", ONE_PIXEL_OFF))


def test_an_engine_may_differ_from_the_package_as_much_as_a_rollout_allows() -> None:
    masks = Masks(num_classes=3)
    masks.expect("a", "1.2", ONE_PIXEL_OFF)
    masks.check(A, dataclasses.replace(answer_of("png"), engine="openvino-int8"))
    with pytest.raises(CheckFailed, match="another mask than version"):
        masks.check(A, answer_of("png", ONE_PIXEL_OFF))


@pytest.mark.parametrize("answer_format", ["png", "npy", "overlay"])
def test_a_body_that_was_right_is_right_again_and_another_is_read(answer_format: str) -> None:
    masks = Masks(num_classes=3)
    masks.check(A, answer_of("png"))
    right = answer_of(answer_format)
    for _ in range(2):
        masks.check(A, right)
    with pytest.raises(CheckFailed, match="content type"):
        masks.check(A, dataclasses.replace(right, content_type="text/html"))
    with pytest.raises(CheckFailed):
        masks.check(A, dataclasses.replace(right, body=right.body[: len(right.body) // 2]))
