"""The fast depthwise convolution is nn.Conv2d, forward and backward, at every size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.depthwise import FastDepthwise, convert
from training.pspnet import build


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (3, 2), (16, 7)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(3, 1, 2), (5, 1, 2), (5, 1, 4), (3, 1, 4), (3, 1, 1), (5, 1, 1), (3, 2, 1), (5, 2, 1)],
)
def test_equals_conv2d(kernel: int, stride: int, dilation: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    padding = dilation * (kernel - 1) // 2
    plain = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=False)
    fast = copy.deepcopy(plain)
    convert(nn.Sequential(fast))
    assert isinstance(fast, FastDepthwise)
    a = torch.randn(2, 6, *size, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    out, expected = fast(b), plain(a)
    torch.testing.assert_close(out, expected)
    gradient = torch.randn_like(expected)
    out.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_under_autocast_it_is_the_convolution_in_bf16(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    exact = nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    fast = copy.deepcopy(exact)
    convert(nn.Sequential(fast))
    a = torch.randn(2, 6, 9, 13, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    expected = exact(a)
    with torch.autocast("cpu", torch.bfloat16):
        out = fast(b)
    assert out.dtype == torch.bfloat16
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    out.backward(gradient.bfloat16())
    for got, exactly in ((out, expected), (b.grad, a.grad), (fast.weight.grad, exact.weight.grad)):
        assert isinstance(got, torch.Tensor)
        assert isinstance(exactly, torch.Tensor)
        assert (got.float() - exactly).norm() < 0.01 * exactly.norm()  # bf16 rounds to 1 in 256
    assert b.grad is not None
    assert fast.weight.grad is not None
    assert (b.grad.dtype, fast.weight.grad.dtype) == (torch.float32, torch.float32)


def test_converted_network_keeps_its_weights_and_answers() -> None:
    net = build("pspnet_lite0", 5).eval()
    images_nchw = torch.randn(1, 3, 49, 65)
    with torch.inference_mode():
        expected = net(images_nchw)
        names = list(net.state_dict())
        assert sum(isinstance(m, FastDepthwise) for m in convert(net).modules()) == 16
        assert list(net.state_dict()) == names
        torch.testing.assert_close(net(images_nchw), expected, atol=1e-4, rtol=1e-4)
