"""The convolution of many channels is nn.Conv2d, forward and backward, at every size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.same_convolution import assert_same, assert_same_in_bf16
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
    assert_same(fast, plain, torch.randn(2, 6, *size).to(memory_format=torch.channels_last))


def test_under_autocast_it_is_the_convolution_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, fast = both(monkeypatch)
    assert_same_in_bf16(fast, exact, torch.randn(2, 6, 9, 13))


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
