"""The photo lies centred in the network's input, and what is found there comes back to its place."""

from __future__ import annotations

import numpy as np
import pytest

from segserve.mask import label_map
from segserve.resize import PAD_VALUE, to_input


@pytest.mark.parametrize("align", [True, False])
def test_photo_maps_back_onto_itself(align: bool) -> None:
    """A step in the photo comes back at the same place, in x and in y, through padding and scale."""
    photo = np.zeros((400, 1000, 3), np.uint8)
    photo[250:, :] = 255
    input_hwc, geometry = to_input(photo, 256, 320)
    grey = input_hwc[..., 0].astype(np.float32)
    # a "network" of stride 1: the input's own brightness as the logits of class 1
    content = slice(geometry.top, geometry.top + geometry.content_height)
    assert geometry.content_height == 128
    grey[: content.start], grey[content.stop :] = 0, 255
    labels = label_map(np.stack([np.full_like(grey, 127.0), grey]), geometry, align)
    edge = np.argmax(labels[:, 500])
    assert abs(int(edge) - 250) <= 2


def test_letterbox_centres_and_pads() -> None:
    photo = np.full((100, 200, 3), 9, np.uint8)
    input_hwc, geometry = to_input(photo, 64, 64)
    assert (geometry.top, geometry.left, geometry.content_height, geometry.content_width) == (16, 0, 32, 64)
    assert (input_hwc[16:48] == 9).all()
    assert (input_hwc[:16] == PAD_VALUE).all()
    assert (input_hwc[48:] == PAD_VALUE).all()


def test_extreme_shapes_keep_a_pixel() -> None:
    input_hwc, geometry = to_input(np.full((1, 5000, 3), 7, np.uint8), 64, 48)
    assert geometry.content_height == 1
    assert (input_hwc == 7).any()
    assert label_map(np.zeros((3, 8, 6), np.float32), geometry, True).shape == (1, 5000)
