"""Most epochs at half the network's resolution, several times as fast; the last ones as it is served.

    python -m training.train … --epochs 10 --coarse-epochs 8

A trunk at output stride 8 keeps its maps large by dilating filters where the classifier that it comes from halves
them. Halved there once (output stride 16), with half of the dilation from there on, it computes the same values at
every other position only, so a step of pspnet_lite0 costs about a third (benchmarks/train_steps.py). Chen et al.
(arXiv:1706.05587, section 4.2) train so and evaluate at stride 8; here the last epochs are trained at stride 8, too,
because the pyramid and the heads have no dilation to follow. Validation, and all that is saved, is at stride 8 in every
epoch.
"""

from __future__ import annotations

from torch import nn

from training.backbones import EfficientNetLite0, ResNet

Pair = tuple[int, int]


class Coarse:
    """Switches a trunk between its own output stride 8 (as it was given) and 16. Weights know nothing of it."""

    def __init__(self, trunk: ResNet | EfficientNetLite0) -> None:
        self.on = False
        first, *_ = blocks = trunk.at_stride_8()
        strided = {id(conv) for conv in first.strided()}
        self._settings = [
            (conv, _setting(conv), _halved(conv, id(conv) in strided))
            for block in blocks
            for conv in block.modules()
            if isinstance(conv, nn.Conv2d)
        ]

    def switch(self, *, on: bool) -> None:
        """On: stride 16."""
        self.on = on
        for conv, fine, coarse in self._settings:
            conv.stride, conv.dilation, conv.padding = coarse if on else fine


def _setting(conv: nn.Conv2d) -> tuple[Pair, Pair, Pair]:
    assert not isinstance(conv.padding, str)
    return _pair(conv.stride[0]), _pair(conv.dilation[0]), _pair(conv.padding[0])


def _halved(conv: nn.Conv2d, strided: bool) -> tuple[Pair, Pair, Pair]:
    """What halves the map still reads the large one: its dilation stays."""
    dilation = conv.dilation[0] if strided else max(1, conv.dilation[0] // 2)
    padding = dilation * (conv.kernel_size[0] - 1) // 2
    return _pair(2 if strided else 1), _pair(dilation), _pair(padding)


def _pair(side: int) -> Pair:
    return side, side
