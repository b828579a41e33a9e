"""What conversions get wrong, done on purpose to a network or its description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from training import pspnet
from training.meta import CheckpointMeta

Sabotage = Callable[[pspnet.PSPNet, CheckpointMeta], CheckpointMeta | None]
"""Changes the network in place, or returns another description."""

EPS = 1e-3  # Lite0's


def first_conv(model: pspnet.PSPNet) -> nn.Conv2d:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def bgr(model: pspnet.PSPNet, meta: CheckpointMeta) -> None:
    weight = first_conv(model).weight
    weight.data = weight.data.flip(1)


def other_eps(model: pspnet.PSPNet, meta: CheckpointMeta) -> None:
    """As if trained with 1e-5: the variances are larger by what the epsilon was."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var += EPS - 1e-5


def permute(model: pspnet.PSPNet, meta: CheckpointMeta) -> None:
    last = model.head[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    order = list(range(len(meta.classes)))
    order[0], order[1], order[2], order[3] = 2, 0, 1, 5
    order[5] = 3
    last.weight.data, last.bias.data = last.weight.data[order], last.bias.data[order]


def described(**changes: Any) -> Sabotage:
    return lambda model, meta: replace(meta, **changes)


def scaled(factor: float) -> Sabotage:
    def scale(model: pspnet.PSPNet, meta: CheckpointMeta) -> CheckpointMeta:
        (a, b, c), (d, e, f) = meta.mean, meta.std
        return replace(
            meta, mean=(factor * a, factor * b, factor * c), std=(factor * d, factor * e, factor * f)
        )

    return scale


def both(*sabotages: Sabotage) -> Sabotage:
    def spoil(model: pspnet.PSPNet, meta: CheckpointMeta) -> CheckpointMeta:
        for sabotage in sabotages:
            meta = sabotage(model, meta) or meta
        return meta

    return spoil


IMAGENET = described(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
