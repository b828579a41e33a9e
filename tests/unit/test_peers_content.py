"""What the peers answer: their usual way gives the labels of the exact mask, and every form of answer is read back."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.peers import content
from benchmarks.peers.apps import usual
from benchmarks.photos import photo
from segserve.errors import CheckFailed
from segserve.geometry import Geometry
from segserve.mask import label_map
from segserve.segmenter import Segmenter
from segserve.spec import InputSpec
from tests.specs import make_spec

NO_ENGINE: Any = None
SIZES = ((120, 160), (200, 150), (97, 301))


def png(labels: np.ndarray[tuple[int, int], np.dtype[np.uint8]], mode: str = "P") -> bytes:
    image = Image.fromarray(labels)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    file = io.BytesIO()
    image.convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_peers_give_the_network_the_photo_that_we_give_it(height: int, width: int) -> None:
    jpeg = photo(3, height, width).jpeg
    prepared = usual.prepare(jpeg, 64, 96)
    geometry = Geometry.letterbox(height, width, 64, 96)
    assert prepared.photo_size == (height, width)
    assert prepared.content == (
        geometry.top, geometry.left, geometry.content_height, geometry.content_width,
    )  # fmt: skip
    spec = make_spec(input=InputSpec(64, 96, (127.0,) * 3, (128.0,) * 3))
    ours = Segmenter(spec, NO_ENGINE).prepare(jpeg)
    difference = np.abs(prepared.input_hwc.astype(int) - ours.input_hwc)
    assert ours.geometry == geometry
    assert difference.mean() < 2  # of 255: the decoder may take a short cut that Pillow does not take


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_upsampling_twice_finds_the_labels_of_the_exact_mask(
    height: int, width: int, align_corners: bool
) -> None:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(1, 7, 3, 4, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (16, 24), mode="bicubic")[0]
    prepared = usual.prepare(photo(3, height, width).jpeg, 128, 192)
    labels = usual.upsample(logits, prepared, align_corners).numpy()
    right = label_map(logits.numpy(), Geometry.letterbox(height, width, 128, 192), align_corners)
    assert len(np.unique(right)) > 3
    assert content.agreement(labels, right) > 0.99


def test_each_form_of_answer_is_read_back() -> None:
    labels = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
    encoded = json.dumps([base64.b64encode(png(labels)).decode()]).encode()
    nested = json.dumps(labels.tolist(), indent=2).encode()
    assert np.array_equal(content.from_png(png(labels)), labels)
    assert np.array_equal(content.from_base64_list(encoded), labels)
    assert np.array_equal(content.from_nested_lists(nested), labels)


@pytest.mark.parametrize(
    ("read", "body", "reason"),
    [
        (content.from_png, b"{}", "not a whole PNG"),
        (content.from_png, png(np.zeros((40, 40), np.uint8))[:-30], "not a whole PNG"),
        (content.from_png, png(np.zeros((4, 4), np.uint8), "RGB"), "mode RGB"),
        (content.from_base64_list, b"[]", "not a JSON list of one PNG"),
        (content.from_base64_list, b'["~"]', "not a JSON list of one PNG"),
        (content.from_nested_lists, b"<html>", "not rows of class ids"),
        (content.from_nested_lists, b"[[1, 2], [3]]", "not rows of class ids"),
        (content.from_nested_lists, b"[[1, 256]]", "not rows of class ids"),
    ],
)
def test_what_is_no_mask_is_refused(read: object, body: bytes, reason: str) -> None:
    assert callable(read)
    with pytest.raises(CheckFailed, match=reason):
        read(body)


def test_agreement_counts_pixels_and_refuses_other_sizes() -> None:
    right = [np.array([[0, 1], [1, 1]], np.uint8), np.zeros((1, 4), np.uint8)]
    answers = [(1, png(np.array([[0, 0, 0, 1]], np.uint8))), (0, png(right[0]))]
    assert content.agreements(answers, content.from_png, right) == [0.75, 1.0]
    with pytest.raises(CheckFailed, match=r"\(2, 2\).*\(1, 4\)"):
        content.agreements([(1, png(right[0]))], content.from_png, right)
