# mypy: disable-error-code="operator, union-attr, no-any-return"
"""Other repositories' networks, written anew as plain modules with those repositories' own tensor names.

Each is built the way its repository builds it (semseg and CSAIL change the strides of a classification ResNet
afterwards, MMSegmentation passes dilations to the constructor), so that the importer is compared with the mechanism
and not with its own table. They are narrow: `width` is 64 in the originals. Batch norms get statistics and weights
that matter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Block(nn.Module):
    """Names of torchvision, which all four share: conv1, bn1 … downsample."""

    def __init__(
        self, cin: int, planes: int, stride: int, dilation: int, *, deep: bool, caffe: bool = False,
        second: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.deep, out = deep, planes * (4 if deep else 1)

        def three(a: int, b: int, s: int, d: int) -> nn.Conv2d:
            return nn.Conv2d(a, b, 3, s, d, d, bias=False)

        if deep:
            self.conv1 = nn.Conv2d(cin, planes, 1, stride if caffe else 1, bias=False)
            self.conv2 = three(planes, planes, 1 if caffe else stride, dilation)
            self.conv3, self.bn3 = nn.Conv2d(planes, out, 1, bias=False), nn.BatchNorm2d(out)
        else:
            self.conv1 = three(cin, planes, stride, dilation)
            self.conv2 = three(planes, planes, 1, second or dilation)
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
        self.downsample: nn.Module | None = None
        if stride != 1 or cin != out:
            self.downsample = nn.Sequential(nn.Conv2d(cin, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def stages(
    net: nn.Module, cin: int, width: int, depth: int, make: Callable[[int, int, int, int], nn.Module]
) -> int:
    """layer1 … layer4; `make(stage, index, cin, planes)` gives a block. Returns the channels that come out."""
    grow = 4 if depth >= 50 else 1
    for stage, count in enumerate(DEPTHS[depth]):
        planes, blocks = width * 2**stage, []
        for index in range(count):
            blocks.append(make(stage, index, cin, planes))
            cin = planes * grow
        setattr(net, f"layer{stage + 1}", nn.Sequential(*blocks))
    return cin


def classifier_stages(net: nn.Module, cin: int, width: int, depth: int) -> int:
    """As in a ResNet for classification: stride 2 in the first block of stages 2, 3 and 4."""
    return stages(
        net, cin, width, depth,
        lambda stage, index, a, p: Block(a, p, 2 if stage and not index else 1, 1, deep=depth >= 50),
    )  # fmt: skip


def cbr(a: int, b: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]


class Semseg(nn.Module):
    """hszhao/semseg, model/pspnet.py: layer0, ppm, cls, aux."""

    def __init__(
        self, depth: int, classes: int, width: int, bins: tuple[int, ...] = (1, 2, 3, 6), *, deep_stem: bool = True
    ) -> None:  # fmt: skip
        super().__init__()
        stem, wide = cbr(3, width, 7, 2), width  # forks: torchvision's
        if deep_stem:
            stem, wide = [*cbr(3, width, 3, 2), *cbr(width, width, 3), *cbr(width, 2 * width, 3)], 2 * width
        self.layer0 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        out = classifier_stages(self, wide, width, depth)
        for layer, dilation in ((self.layer3, 2), (self.layer4, 4)):
            for name, module in layer.named_modules():
                if name.endswith("conv2"):
                    module.dilation, module.padding, module.stride = (dilation,) * 2, (dilation,) * 2, (1, 1)
                elif name.endswith("downsample.0"):
                    module.stride = (1, 1)
        self.ppm = nn.Module()
        self.ppm.features = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(n), *cbr(out, out // len(bins), 1)) for n in bins
        )
        self.cls = nn.Sequential(*cbr(2 * out, 24, 3), nn.Dropout2d(0.1), nn.Conv2d(24, classes, 1))
        self.aux = nn.Sequential(*cbr(out // 2, 16, 3), nn.Dropout2d(0.1), nn.Conv2d(16, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(x)))))
        size = x.shape[2:]
        parts = [F.interpolate(f(x), size, mode="bilinear", align_corners=True) for f in self.ppm.features]
        return self.cls(torch.cat([x, *parts], 1))


class ConvModule(nn.Module):
    """mmcv's: `conv`, `bn`."""

    def __init__(self, a: int, b: int, kernel: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(b)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class MMSeg(nn.Module):
    """MMSegmentation's EncoderDecoder of ResNetV1c, PSPHead and FCNHead (pspnet_r50-d8)."""

    def __init__(self, depth: int, classes: int, width: int, *, caffe: bool = False) -> None:
        super().__init__()
        half = width // 2
        self.backbone = nn.Module()
        self.backbone.stem = nn.Sequential(*cbr(3, half, 3, 2), *cbr(half, half, 3), *cbr(half, width, 3))
        strides, dilations = (1, 2, 1, 1), (1, 1, 2, 4)

        def make(stage: int, index: int, a: int, p: int) -> Block:
            dilation = dilations[stage]
            if index == 0 and dilation > 1:
                dilation //= 2  # contract_dilation
            stride = 1 if index else strides[stage]
            return Block(a, p, stride, dilation, deep=depth >= 50, caffe=caffe, second=1)

        out = stages(self.backbone, width, width, depth, make)
        head, aux = nn.Module(), nn.Module()
        head.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(n), ConvModule(out, 20, 1)) for n in (1, 2, 3, 6)
        )
        head.bottleneck, head.conv_seg = ConvModule(out + 80, 20, 3), nn.Conv2d(20, classes, 1)
        aux.convs, aux.conv_seg = nn.Sequential(ConvModule(out // 2, 12, 3)), nn.Conv2d(12, classes, 1)
        self.decode_head, self.auxiliary_head = head, aux

    def forward(self, x: Tensor) -> Tensor:
        b = self.backbone
        x = b.layer4(b.layer3(b.layer2(b.layer1(F.max_pool2d(b.stem(x), 3, 2, 1)))))
        size, head = x.shape[2:], self.decode_head
        parts = [F.interpolate(f(x), size, mode="bilinear", align_corners=False) for f in head.psp_modules]
        return head.conv_seg(head.bottleneck(torch.cat([x, *parts], 1)))


class CSAIL(nn.Module):
    """CSAIL's ResnetDilated (encoder) and PPMDeepsup (decoder)."""

    def __init__(self, depth: int, classes: int, width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = e, d = nn.Module(), nn.Module()
        e.conv1, e.bn1, _ = cbr(3, width, 3, 2)
        e.conv2, e.bn2, _ = cbr(width, width, 3)
        e.conv3, e.bn3, _ = cbr(width, 2 * width, 3)
        out = classifier_stages(e, 2 * width, width, depth)
        for layer, dilate in ((e.layer3, 2), (e.layer4, 4)):
            for conv in (m for m in layer.modules() if isinstance(m, nn.Conv2d)):
                strided = conv.stride == (2, 2)
                conv.stride = (1, 1)
                if conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (dilate // 2,) * 2 if strided else (dilate,) * 2
        d.ppm = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), *cbr(out, 20, 1)) for n in (1, 2, 3, 6))
        d.conv_last = nn.Sequential(*cbr(out + 80, 24, 3), nn.Dropout2d(0.1), nn.Conv2d(24, classes, 1))
        d.cbr_deepsup, d.conv_last_deepsup = nn.Sequential(*cbr(out // 2, 12, 3)), nn.Conv2d(12, classes, 1)
        for module in list(self.modules()):
            if isinstance(module, nn.BatchNorm2d):  # its own synchronised one keeps sums beside what it uses
                for name in ("_tmp_running_mean", "_tmp_running_var"):
                    module.register_buffer(name, torch.full((module.num_features,), 7.0))
                module.register_buffer("_running_iter", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        e, d = self.encoder, self.decoder
        x = F.relu(e.bn1(e.conv1(x)))
        x = F.max_pool2d(F.relu(e.bn3(e.conv3(F.relu(e.bn2(e.conv2(x)))))), 3, 2, 1)
        x = e.layer4(e.layer3(e.layer2(e.layer1(x))))
        size = x.shape[2:]
        parts = [F.interpolate(f(x), size, mode="bilinear", align_corners=False) for f in d.ppm]
        return d.conv_last(torch.cat([x, *parts], 1))


class Classifier(nn.Module):
    """torchvision's ResNet (7x7 stem), or timm's with the deep stem (conv1 is a Sequential)."""

    def __init__(self, depth: int, width: int, *, deep_stem: bool = False) -> None:
        super().__init__()
        if deep_stem:
            first = [*cbr(3, width, 3, 2), *cbr(width, width, 3)]
            self.conv1: nn.Module = nn.Sequential(
                *first, nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
            )
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        cin = 2 * width if deep_stem else width
        self.bn1 = nn.BatchNorm2d(cin)
        out = classifier_stages(self, cin, width, depth)
        self.fc = nn.Linear(out, 10)

    def features(self, x: Tensor) -> Tensor:
        """After layer2: before strides are traded for dilation, so comparable with a dilated trunk."""
        return self.layer2(self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)))


def random_weights(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that keep activations near 1, and batch norms far from the identity. Returns `net` in eval mode."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.4, 0.9)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()
