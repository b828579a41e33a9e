"""What a convolution that is computed another way must have in common with nn.Conv2d."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def assert_same(fast: nn.Conv2d, plain: nn.Conv2d, images_nchw: Tensor) -> None:
    """Answers and both gradients, for the same weights."""
    a = images_nchw.clone().requires_grad_()
    b = images_nchw.clone().requires_grad_()
    out, expected = fast(b), plain(a)
    torch.testing.assert_close(out, expected)
    gradient = torch.randn_like(expected)
    out.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


def assert_same_in_bf16(fast: nn.Conv2d, exact: nn.Conv2d, images_nchw: Tensor) -> None:
    """The same of `fast` under autocast, as near as bf16 is; gradients come back in float32."""
    a = images_nchw.clone().requires_grad_()
    b = images_nchw.clone().requires_grad_()
    expected = exact(a)
    with torch.autocast("cpu", torch.bfloat16):
        out = fast(b)
    assert out.dtype == torch.bfloat16
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    out.backward(gradient.bfloat16())
    for got, exactly in ((out, expected), (b.grad, a.grad), (fast.weight.grad, exact.weight.grad)):
        assert isinstance(got, Tensor)
        assert isinstance(exactly, Tensor)
        assert (got.float() - exactly).norm() < 0.01 * exactly.norm()  # bf16 rounds to 1 in 256
    assert b.grad is not None
    assert fast.weight.grad is not None
    assert (b.grad.dtype, fast.weight.grad.dtype) == (torch.float32, torch.float32)
