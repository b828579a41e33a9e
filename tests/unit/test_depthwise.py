"""The fast depthwise convolution is nn.Conv2d, forward and backward, at every size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.depthwise import GridDepthwise, convert
from training.pspnet import build


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (3, 2), (16, 7)])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (5, 2), (5, 4), (3, 4)])
def test_equals_conv2d(kernel: int, dilation: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    padding = dilation * (kernel - 1) // 2
    plain = nn.Conv2d(6, 6, kernel, 1, padding, dilation, groups=6, bias=False)
    fast = copy.deepcopy(plain)
    convert(nn.Sequential(fast))
    assert isinstance(fast, GridDepthwise)
    a = torch.randn(2, 6, *size, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    out, expected = fast(b), plain(a)
    torch.testing.assert_close(out, expected)
    gradient = torch.randn_like(expected)
    out.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


def test_converted_network_keeps_its_weights_and_answers() -> None:
    net = build("pspnet_lite0", 5).eval()
    images_nchw = torch.randn(1, 3, 49, 65)
    with torch.inference_mode():
        expected = net(images_nchw)
        names = list(net.state_dict())
        assert sum(isinstance(m, GridDepthwise) for m in convert(net).modules()) == 10
        assert list(net.state_dict()) == names
        torch.testing.assert_close(net(images_nchw), expected, atol=1e-4, rtol=1e-4)
