"""What the load test lets pass, and what it does not."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.judge import Answer, Masks, judge, read_mask
from segserve import answer
from segserve.errors import CheckFailed
from segserve.request import CONTENT_TYPES
from tests.specs import make_spec

SPEC = make_spec()
MASK: NDArray[np.uint8] = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 2, 2]], np.uint8)
ONE_PIXEL_OFF = np.where(np.arange(12).reshape(3, 4) == 5, 1, MASK).astype(np.uint8)


def answer_of(answer_format: str, labels: NDArray[np.uint8] = MASK) -> Answer:
    """What the server answers for this label map."""
    photo = np.full((*labels.shape, 3), 100, np.uint8)
    body = answer.body(
        answer_format, labels, photo, SPEC, class_ids=None, timings_ms={"engine": 1.0}, max_bytes=10_000
    )
    return Answer(answer_format, SPEC.version, CONTENT_TYPES[answer_format], body)


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_right_answers_pass(answer_format: str) -> None:
    judge(answer_of(answer_format), MASK, 3)


def test_a_quiet_png_is_read_as_the_mask() -> None:
    np.testing.assert_array_equal(read_mask(answer_of("png"), (3, 4), 3), MASK)


@pytest.mark.parametrize("answer_format", ["png", "json", "npy"])
def test_one_wrong_pixel_is_seen(answer_format: str) -> None:
    with pytest.raises(CheckFailed, match=r"mask (of|than) version 1\.2"):
        judge(answer_of(answer_format, ONE_PIXEL_OFF), MASK, 3)


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_another_size_is_seen(answer_format: str) -> None:
    with pytest.raises(CheckFailed, match="size"):
        judge(answer_of(answer_format, np.ascontiguousarray(MASK.T)), MASK, 3)


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_half_an_answer_is_seen(answer_format: str) -> None:
    whole = answer_of(answer_format)
    with pytest.raises(CheckFailed):
        judge(dataclasses.replace(whole, body=whole.body[: len(whole.body) // 2]), MASK, 3)


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_another_content_type_is_seen(answer_format: str) -> None:
    with pytest.raises(CheckFailed, match="content type: got text/html"):
        judge(dataclasses.replace(answer_of(answer_format), content_type="text/html"), MASK, 3)


@pytest.mark.parametrize("answer_format", ["png", "npy"])
def test_ids_that_are_no_classes_are_seen(answer_format: str) -> None:
    with pytest.raises(CheckFailed, match="no classes"):
        judge(answer_of(answer_format), MASK, 2)


def test_left_out_pixels_are_no_class_but_allowed() -> None:
    mask = np.where(MASK == 2, 255, MASK).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(answer_of("png", mask), (3, 4), 3), mask)


def test_a_picture_of_colours_is_no_label_map() -> None:
    file = io.BytesIO()
    Image.fromarray(MASK).convert("RGB").save(file, "PNG")
    with pytest.raises(CheckFailed, match="PNG mode: got RGB"):
        judge(Answer("png", "1.2", "image/png", file.getvalue()), MASK, 3)


def test_json_whose_pixels_do_not_sum_up_is_seen() -> None:
    found = json.loads(answer_of("json").body)
    found["classes"][0]["pixels"] -= 1
    with pytest.raises(CheckFailed, match="do not sum"):
        judge(Answer("json", "1.2", "application/json", json.dumps(found).encode()), MASK, 3)


def test_json_of_another_version_is_seen() -> None:
    with pytest.raises(CheckFailed, match=r"version in JSON: got 1\.2, expected 1\.3"):
        judge(dataclasses.replace(answer_of("json"), version="1.3"), MASK, 3)


def test_masks_are_learnt_for_each_photo_and_version() -> None:
    masks = Masks(num_classes=3)
    masks.check("a", (3, 4), answer_of("png"))
    masks.check("b", (3, 4), answer_of("png", ONE_PIXEL_OFF))
    newer = dataclasses.replace(answer_of("png", ONE_PIXEL_OFF), version="1.3")
    masks.check("a", (3, 4), newer)
    masks.check("a", (3, 4), newer)
    masks.check("a", (3, 4), answer_of("npy"))
    with pytest.raises(CheckFailed, match="another mask"):
        masks.check("a", (3, 4), answer_of("png", ONE_PIXEL_OFF))
    with pytest.raises(CheckFailed, match="another mask"):
        masks.check("b", (3, 4), answer_of("npy"))


def test_a_first_mask_of_the_wrong_size_is_not_learnt() -> None:
    with pytest.raises(CheckFailed, match="size"):
        Masks(num_classes=3).check("a", (4, 3), answer_of("png"))


def test_one_class_everywhere_is_no_segmentation() -> None:
    masks = Masks(num_classes=3)
    masks.check("a", (3, 4), answer_of("png", np.zeros_like(MASK)))
    with pytest.raises(CheckFailed, match="one class only"):
        masks.require_content()
    masks.check("b", (3, 4), answer_of("png", np.ones_like(MASK)))
    masks.require_content()


def test_masks_must_be_like_those_of_the_package() -> None:
    masks = Masks(num_classes=3)
    masks.expect("a", "1.2", ONE_PIXEL_OFF)
    with pytest.raises(CheckFailed, match=r"not the mask of the package of version 1\.2: 91\.67 %"):
        masks.check("a", (3, 4), answer_of("png"))
    masks.check("b", (3, 4), answer_of("png"))  # of which the package says nothing
    masks.check("a", (3, 4), answer_of("png", ONE_PIXEL_OFF))


def test_an_engine_may_differ_from_the_package_as_much_as_a_rollout_allows() -> None:
    masks = Masks(num_classes=3)
    masks.expect("a", "1.2", ONE_PIXEL_OFF)
    masks.check("a", (3, 4), dataclasses.replace(answer_of("png"), engine="openvino-int8"))
    with pytest.raises(CheckFailed, match="another mask than version"):
        masks.check("a", (3, 4), answer_of("png", ONE_PIXEL_OFF))


@pytest.mark.parametrize("answer_format", ["png", "npy", "overlay"])
def test_a_body_that_was_right_is_right_again_and_another_is_read(answer_format: str) -> None:
    masks = Masks(num_classes=3)
    masks.check("a", (3, 4), answer_of("png"))
    right = answer_of(answer_format)
    for _ in range(2):
        masks.check("a", (3, 4), right)
    with pytest.raises(CheckFailed, match="content type"):
        masks.check("a", (3, 4), dataclasses.replace(right, content_type="text/html"))
    with pytest.raises(CheckFailed):
        masks.check("a", (3, 4), dataclasses.replace(right, body=right.body[: len(right.body) // 2]))
