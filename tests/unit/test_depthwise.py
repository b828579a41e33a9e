"""The fast depthwise convolution is nn.Conv2d, forward and backward, at every size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.same_convolution import assert_same, assert_same_in_bf16
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
    assert_same(fast, plain, torch.randn(2, 6, *size))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_under_autocast_it_is_the_convolution_in_bf16(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    exact = nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    fast = copy.deepcopy(exact)
    convert(nn.Sequential(fast))
    assert_same_in_bf16(fast, exact, torch.randn(2, 6, 9, 13))


def test_converted_network_keeps_its_weights_and_answers() -> None:
    net = build("pspnet_lite0", 5).eval()
    images_nchw = torch.randn(1, 3, 49, 65)
    with torch.inference_mode():
        expected = net(images_nchw)
        names = list(net.state_dict())
        assert sum(isinstance(m, FastDepthwise) for m in convert(net).modules()) == 16
        assert list(net.state_dict()) == names
        torch.testing.assert_close(net(images_nchw), expected, atol=1e-4, rtol=1e-4)
