"""The convolution of many channels is nn.Conv2d, forward and backward, at every size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training import wide
from training.distributed import Processes, wrap
from training.pspnet import build
from training.wide import WideConv, convert


def both(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A convolution as torch has it, and one of ours with the same weights."""
    torch.manual_seed(0)
    monkeypatch.setattr(wide, "LEAST_CHANNELS", 6)
    plain = nn.Conv2d(6, 5, 3, padding=1, bias=False)
    fast = copy.deepcopy(plain)
    convert(nn.Sequential(fast))
    assert isinstance(fast, WideConv)
    return plain, fast


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (3, 2), (1, 1), (16, 7)])
def test_equals_conv2d(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    plain, fast = both(monkeypatch)
    a = torch.randn(2, 6, *size).to(memory_format=torch.channels_last).requires_grad_()
    b = a.detach().clone().requires_grad_()
    out, expected = fast(b), plain(a)
    torch.testing.assert_close(out, expected)
    gradient = torch.randn_like(expected)
    out.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


def test_under_autocast_it_is_the_convolution_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, fast = both(monkeypatch)
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


def test_a_training_on_a_cpu_takes_it() -> None:
    net = wrap(build("pspnet50", 3), Processes(0, 1, torch.device("cpu")))
    assert sum(isinstance(module, WideConv) for module in net.modules()) == 1


def test_only_the_bottleneck_of_pspnet50_is_converted() -> None:
    """And what only looks like it is left alone."""
    net = build("pspnet50", 3)
    names = list(net.state_dict())
    convert(net)
    found = [module for module in net.modules() if isinstance(module, WideConv)]
    assert [(conv.in_channels, conv.out_channels) for conv in found] == [(4096, 512)]
    assert list(net.state_dict()) == names
    others = nn.Sequential(
        nn.Conv2d(4096, 2, 3, padding=1), nn.Conv2d(4096, 2, 1, bias=False),
        nn.Conv2d(4096, 2, 3, padding=2, dilation=2, bias=False), nn.Conv2d(4096, 2, 3, 2, 1, bias=False),
    )  # fmt: skip
    convert(others)
    assert not any(isinstance(module, WideConv) for module in others)
