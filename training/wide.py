"""Convolutions of thousands of channels whose weights' gradient is fast on a CPU.

oneDNN's gradient of the weights of pspnet50's bottleneck (3x3, 4096 to 512 channels, bf16 with AMX) runs at a quarter
of the speed of its matrix products, and takes a fourth of a training step, at output stride 16 a third. It is nine such
products, one for each position of the kernel: of the gradient's pixels with the input's, moved by so much. Both are
laid out with the zeros that padding reads, so a move is another offset into the same memory, and nothing is copied nine
times. In float32 both ways take as long, at output stride 16 products a little less.

`convert` swaps the modules for training; names and shapes of the weights stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEAST_CHANNELS = 2048
"""From so many on products win; with 1024 both take as long."""


class WideConv(nn.Conv2d):
    """nn.Conv2d of 3x3 without bias, stride, dilation or groups; padding 1."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        out: Tensor = _Convolution.apply(x, weight)  # type: ignore[no-untyped-call]
        return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, padding=1)

    @staticmethod
    @once_differentiable  # the products write into given memory
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        [of_out], (x, weight) = gradients, ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                of_out, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        return of_x, _of_weight(of_out, x) if ctx.needs_input_grad[1] else None


def _of_weight(of_out: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weights, (out channels, in channels, 3, 3), from that of the output (NCHW) and the input."""
    inputs = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).flatten(0, 2)
    outputs = functional.pad(of_out.permute(0, 2, 3, 1), (0, 0, 0, 2, 0, 2)).flatten(0, 2)
    row, rows = x.shape[3] + 2, len(outputs)
    of_weight = x.new_empty(3, 3, of_out.shape[1], x.shape[1])
    for i in range(3):
        for j in range(3):
            offset = i * row + j
            torch.mm(outputs[: rows - offset].T, inputs[offset:], out=of_weight[i, j])
    return of_weight.permute(2, 3, 0, 1)


def convert(net: nn.Module) -> nn.Module:
    """Make every convolution of `net` that is wide enough a WideConv, in place; returns `net`."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels >= LEAST_CHANNELS and _is_plain(module):
            module.__class__ = WideConv  # same attributes, another way to compute
    return net


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether it is one that WideConv can be."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and conv.bias is None
