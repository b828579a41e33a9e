"""A PSPNet with a trunk of four convolutions, so that tests can export and compare whole networks in seconds.

The pyramid, the head, the exporters and the comparison are the real ones; the weights are random, and large enough
in the last layer that masks have several classes and depend on the picture.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segserve.labels import IGNORE_LABEL, ROOM_CLASSES
from training import pspnet
from training.backbones import BACKBONES, conv_bn
from training.checkpoint import CheckpointMeta, save_checkpoint

PRESET = "pspnet_tiny"


class TinyBlock(nn.Sequential):
    """The part that is dilated."""

    def strided(self) -> list[nn.Module]:
        """As of the real blocks."""
        return [next(module for module in self.modules() if isinstance(module, nn.Conv2d))]


class TinyTrunk(nn.Module):
    """images_nchw -> (c3, c4) at stride 8, as the real trunks do it."""

    c3_channels, c4_channels = 16, 24

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.c3 = nn.Sequential(
            conv_bn(3, 8, 3, stride=2), relu, conv_bn(8, 16, 3, stride=2), relu, conv_bn(16, 16, 3, stride=2), relu
        )  # fmt: skip
        self.c4 = TinyBlock(conv_bn(16, 24, 3, dilation=2), relu)

    def at_stride_8(self) -> list[TinyBlock]:
        """As of the real trunks."""
        return [self.c4]

    def forward(self, images_nchw: Tensor) -> tuple[Tensor, Tensor]:
        c3 = self.c3(images_nchw)
        return c3, self.c4(c3)


def register(patch: pytest.MonkeyPatch) -> None:
    """Make the preset known for as long as `patch` lasts."""
    patch.setitem(BACKBONES, PRESET, TinyTrunk)
    patch.setitem(pspnet.HEAD_CHANNELS, PRESET, 16)
    patch.setattr(pspnet, "PRESETS", (*pspnet.PRESETS, PRESET))


def save(path: Path, seed: int = 0) -> None:
    """Write a checkpoint of it; its mean differs from channel to channel, so that their order matters twice."""
    torch.manual_seed(seed)
    net = pspnet.build(PRESET, len(ROOM_CLASSES))
    last = net.head[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.normal_(last.weight, std=5.0)
    meta = CheckpointMeta(
        PRESET, ROOM_CLASSES, IGNORE_LABEL, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4), net.align_corners,
        input_height=97, input_width=136, epoch=0, metrics={}, provenance={},
    )  # fmt: skip
    save_checkpoint(path, net.state_dict(), meta)
