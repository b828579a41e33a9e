"""Depthwise convolutions that train fast on a CPU.

Three things are slow in oneDNN, and make most of a training step of pspnet_lite0; each is computed another way here:

* backward with dilation. A convolution with dilation d is d x d plain ones on interleaved grids ("space to batch").
* the gradient of 5x5 weights in bfloat16: four times as slow as in float32, so it is computed there.
* the gradient of the input with stride 2. It is a convolution without stride, of the gradient with zeros between.

`convert` swaps the modules for training; names and shapes of the weights stay, so checkpoints and exports know nothing
of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NATIVE_KERNEL = 3
"""The largest whose weights' gradient is fast in bfloat16."""


class FastDepthwise(nn.Conv2d):
    """nn.Conv2d without bias, groups == channels, "same" padding; dilation only without stride."""

    def forward(self, x: Tensor) -> Tensor:
        d = int(self.dilation[0])
        if d == 1:
            return convolve(x, self.weight, self.stride[0])
        n, c, h, w = x.shape
        if h % d or w % d:
            # zeros below and to the right complete the grids; they are what "same" padding would read there
            x = functional.pad(x, (0, -w % d, 0, -h % d))
        rows, columns = x.shape[2] // d, x.shape[3] // d
        grids = x.permute(0, 2, 3, 1).reshape(n, rows, d, columns, d, c).permute(0, 2, 4, 5, 1, 3)
        out = convolve(grids.reshape(n * d * d, c, rows, columns), self.weight, 1)
        out = out.permute(0, 2, 3, 1).reshape(n, d, d, rows, columns, c).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(n, rows * d, columns * d, c).permute(0, 3, 1, 2)[:, :, :h, :w]


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution of x (N, C, H, W) with weight (C, 1, k, k), "same" padding, in autocast's type."""
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    out: Tensor = _Convolution.apply(x, weight, stride)  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        padding = weight.shape[2] // 2
        return functional.conv2d(x, weight.to(x.dtype), None, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        [of_out], (x, weight) = gradients, ctx.saved_tensors
        of_x = _of_input(of_out, x, weight, ctx.stride) if ctx.needs_input_grad[0] else None
        of_weight = _of_weight(of_out, x, weight, ctx.stride) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None


def _of_input(of_out: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    if stride > 1:
        apart = torch.zeros_like(x)
        apart[:, :, ::stride, ::stride] = of_out
        of_out = apart
    mirrored = weight.flip(2, 3).to(x.dtype)
    return functional.conv2d(of_out, mirrored, None, 1, weight.shape[2] // 2, 1, x.shape[1])


def _of_weight(of_out: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    kernel = weight.shape[2]
    dtype = x.dtype if kernel <= NATIVE_KERNEL else torch.promote_types(x.dtype, torch.float32)
    of_weight: Tensor = torch.ops.aten.convolution_backward(
        of_out.to(dtype), x.to(dtype), weight.to(dtype), None, [stride, stride], [kernel // 2] * 2, [1, 1], False,
        [0, 0], x.shape[1], [False, True, False],
    )[1]  # fmt: skip
    return of_weight.to(weight.dtype)


def convert(net: nn.Module) -> nn.Module:
    """Make every depthwise convolution of `net` a FastDepthwise, in place; returns `net`."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1:
            assert module.bias is None, "FastDepthwise adds none"
            module.__class__ = FastDepthwise  # same attributes, another way to compute
    return net
