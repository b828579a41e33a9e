"""Dilated depthwise convolutions that train fast on a CPU.

oneDNN has no fast backward pass for depthwise convolutions with dilation: in pspnet_lite0 they take two thirds of a
training step. A convolution with dilation d is d x d plain ones on interleaved grids ("space to batch"), and plain
depthwise ones are fast. `convert` swaps the modules for training; names and shapes of the weights stay, so
checkpoints and exports know nothing of it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class GridDepthwise(nn.Conv2d):
    """nn.Conv2d with stride 1, groups == channels and "same" padding, computed on d x d interleaved grids."""

    def forward(self, x: Tensor) -> Tensor:
        (n, c, h, w), d = x.shape, int(self.dilation[0])
        if h % d or w % d:
            # zeros below and to the right complete the grids; they are what "same" padding would read there
            x = functional.pad(x, (0, -w % d, 0, -h % d))
        rows, columns = x.shape[2] // d, x.shape[3] // d
        grids = x.permute(0, 2, 3, 1).reshape(n, rows, d, columns, d, c).permute(0, 2, 4, 5, 1, 3)
        grids = grids.reshape(n * d * d, c, rows, columns)
        padding = (self.kernel_size[0] - 1) // 2
        out = functional.conv2d(grids, self.weight, padding=padding, groups=self.groups)
        out = out.permute(0, 2, 3, 1).reshape(n, d, d, rows, columns, c).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(n, rows * d, columns * d, c).permute(0, 3, 1, 2)[:, :, :h, :w]


def convert(net: nn.Module) -> nn.Module:
    """Make every dilated depthwise convolution of `net` a GridDepthwise, in place; returns `net`."""
    for module in net.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.groups == module.in_channels == module.out_channels > 1
            and module.dilation[0] > 1
        ):
            module.__class__ = GridDepthwise  # same attributes, another way to compute
    return net
