"""PSPNet (Zhao et al., "Pyramid Scene Parsing Network", arXiv:1612.01105): one network for training and export.

    from training.pspnet import build
    logits = build("pspnet50", num_classes=150)(images_nchw)   # (N, 150, ceil(H/8), ceil(W/8))

The network ends at its own stride. Upsampling to pixels happens in the loss (training) and in segserve.mask
(serving), so no full-resolution logits exist when a photo is segmented. `forward` has no branch for export: the
pyramid is written with matrix products that mean the same for every H x W in eager, TorchScript and ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from segserve.errors import UsageError
from training.backbones import BACKBONES, RESNETS, EfficientNetLite0, ResNet, conv_bn, load_imagenet_lite0
from training.layout import Layout

PYRAMID_BINS = (1, 2, 3, 6)
PRESETS = tuple(BACKBONES)

# Channels of the fused pyramid. Lite0's trunk is narrow, and its checkpoint is meant to be small.
HEAD_CHANNELS = {"pspnet18": 512, "pspnet50": 512, "pspnet101": 512, "pspnet_lite0": 256}
AUX_CHANNELS = 256


def normalisation(preset: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) of RGB on 0..255 that the preset's backbone was trained with."""
    if preset == "pspnet_lite0":
        return (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
    return (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def line(like: Tensor) -> Tensor:
    """0, 1 ... n-1 as float for a tensor (n,). Not torch.arange: tracing would write this machine's device into it."""
    ones = torch.ones_like(like)
    if torch.are_deterministic_algorithms_enabled():  # CUDA cannot add up floats in a fixed order
        return ones.long().cumsum(0).to(like.dtype) - 1
    return ones.cumsum(0) - 1


def pooling_matrix(num_bins: int, positions: Tensor) -> Tensor:
    """Adaptive average pooling of a line of n positions as a matrix (num_bins, n); each row sums to 1.

    Bin k covers floor(k n / b) ... ceil((k + 1) n / b), written as comparisons so that no integer division is
    exported. `positions` is 0, 1 ... n-1 as float, made from the shape at run time: exact for n < 2**20.
    """
    n = positions[-1:] + 1
    bins = line(positions.new_ones(num_bins)).unsqueeze(1)
    inside = ((positions + 1) * num_bins > bins * n) & (positions * num_bins < (bins + 1) * n)
    weights = inside.to(positions.dtype)
    return weights / weights.sum(dim=1, keepdim=True)


def upsampling_matrix(num_bins: int, positions: Tensor, align_corners: bool) -> Tensor:
    """Bilinear upsampling of num_bins values to n positions as a matrix (n, num_bins)."""
    last = positions[-1:]
    if align_corners:
        source = positions * ((num_bins - 1) / last.clamp(min=1))
    else:
        source = ((positions + 0.5) * (num_bins / (last + 1)) - 0.5).clamp(min=0, max=num_bins - 1)
    bins = line(positions.new_ones(num_bins))
    return (1 - (source.unsqueeze(1) - bins).abs()).clamp(min=0)


class PyramidPooling(nn.Module):
    """Averages over 1, 4, 9 and 36 regions, each reduced by a 1x1 convolution and spread back over the map.

    (N, C, h, w) -> (N, 2C, h, w): the input and the four levels side by side, of C / 4 channels each unless
    `reduced` says otherwise.
    """

    def __init__(self, channels: int, align_corners: bool, reduced: int | None = None) -> None:
        super().__init__()
        self.align_corners = align_corners
        reduced = reduced or channels // len(PYRAMID_BINS)
        self.out_channels = channels + len(PYRAMID_BINS) * reduced
        self.levels = nn.ModuleList(
            nn.Sequential(conv_bn(channels, reduced, 1), nn.ReLU(inplace=True)) for _ in PYRAMID_BINS
        )

    def forward(self, features: Tensor) -> Tensor:
        rows, columns = line(features[0, 0, :, 0].float()), line(features[0, 0, 0, :].float())
        parts = [features]
        for num_bins, level in zip(PYRAMID_BINS, self.levels, strict=True):
            down = pooling_matrix(num_bins, rows).to(features.dtype)
            across = pooling_matrix(num_bins, columns).to(features.dtype)
            pooled = level(down @ features @ across.transpose(0, 1))
            up = upsampling_matrix(num_bins, rows, self.align_corners).to(pooled.dtype)
            out = upsampling_matrix(num_bins, columns, self.align_corners).to(pooled.dtype)
            parts.append(up @ pooled @ out.transpose(0, 1))
        return torch.cat(parts, dim=1)


class PSPNet(nn.Module):
    """`forward`: normalised images_nchw, float (N, 3, H, W) -> logits (N, num_classes, ceil(H/8), ceil(W/8)).

    `align_corners` is how its maps are upsampled, inside the pyramid and to pixels; it belongs to the weights.
    """

    stride = 8

    def __init__(
        self, preset: str, num_classes: int, *, align_corners: bool, dropout: float, layout: Layout | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.preset, self.num_classes, self.align_corners = preset, num_classes, align_corners
        self.backbone = BACKBONES[preset]() if layout is None else ResNet(*RESNETS[preset], layout)
        c3, c4 = self.backbone.c3_channels, self.backbone.c4_channels
        width, aux_width, reduced = HEAD_CHANNELS[preset], AUX_CHANNELS, None
        if layout is not None:
            width, aux_width, reduced = layout.head, layout.aux, layout.pyramid
        self.pyramid = PyramidPooling(c4, align_corners, reduced)
        self.head = nn.Sequential(
            conv_bn(self.pyramid.out_channels, width, 3),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, num_classes, 1),
        )
        self.aux = nn.Sequential(
            conv_bn(c3, aux_width, 3), nn.ReLU(inplace=True), nn.Dropout2d(dropout),
            nn.Conv2d(aux_width, num_classes, 1),
        )  # fmt: skip

        self.decide: nn.Module = nn.Identity()  # what a checkpoint says of its logits (training.decision)

        for classifier in (self.head[-1], self.aux[-1]):
            # small first logits: every class starts about as likely as any other
            assert isinstance(classifier, nn.Conv2d) and classifier.bias is not None  # noqa: PT018
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)

    def forward(self, images_nchw: Tensor) -> Tensor:
        logits: Tensor = self.decide(self.head(self.pyramid(self.backbone(images_nchw)[1])))
        return logits

    def forward_with_aux(self, images_nchw: Tensor) -> tuple[Tensor, Tensor]:
        """Training: the logits and those of the auxiliary head on c3 (weight 0.4 in the paper)."""
        c3, c4 = self.backbone(images_nchw)
        return self.head(self.pyramid(c4)), self.aux(c3)

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """What may come from ImageNet: trained with base_lr."""
        return self.backbone.parameters()

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """What starts from nothing: trained with ten times base_lr."""
        for module in (self.pyramid, self.head, self.aux):
            yield from module.parameters()


def build(
    preset: str,
    num_classes: int,
    *,
    align_corners: bool = True,
    pretrained: bool = False,
    dropout: float = 0.1,
    layout: Layout | None = None,
) -> PSPNet:
    """A PSPNet by preset name; `pretrained` puts ImageNet weights into the backbone (pspnet_lite0 only).

    `layout` is for ResNets of other origin than this repository's.
    Raises UsageError for an unknown preset, and for weights or a layout that it has not.
    """
    if preset not in BACKBONES:
        raise UsageError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    if not 1 <= num_classes <= 255:
        raise UsageError(f"num_classes is {num_classes}: labels are stored in one byte, 1 to 255 classes fit")
    if layout is not None and preset not in RESNETS:
        raise UsageError(f"{preset} has one layout only; those with several are {', '.join(RESNETS)}")
    net = PSPNet(preset, num_classes, align_corners=align_corners, dropout=dropout, layout=layout)
    if pretrained:
        if not isinstance(net.backbone, EfficientNetLite0):
            raise UsageError(
                f"no ImageNet weights are installed for {preset}: use pspnet_lite0 or start from scratch"
            )
        load_imagenet_lite0(net.backbone)
    return net


def set_bn_eps(model: nn.Module, bn_eps: float | None) -> None:
    """Give every batch norm this epsilon; None leaves them as they are."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and bn_eps is not None:
            module.eps = bn_eps
