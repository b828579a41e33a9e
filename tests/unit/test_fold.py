"""The folded network answers like the network, at sizes that no bin of the pyramid divides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from export.fold import fold
from training.pspnet import PSPNet, build


def trained_like(preset: str, align_corners: bool) -> PSPNet:
    """Random weights, with batch norms that do something."""
    torch.manual_seed(0)
    net = build(preset, 7, align_corners=align_corners).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return net


@pytest.mark.parametrize(("preset", "align_corners"), [("pspnet_lite0", True), ("pspnet18", False)])
@pytest.mark.parametrize("size", [(2, 75, 101), (1, 33, 200), (1, 9, 9)])
def test_folding_changes_nothing_but_rounding(
    preset: str, align_corners: bool, size: tuple[int, int, int]
) -> None:
    net = trained_like(preset, align_corners)
    images_nchw = torch.randn(size[0], 3, *size[1:])
    with torch.inference_mode():
        expected, got = net(images_nchw), fold(net)(images_nchw)
    assert got.shape == expected.shape
    assert expected.std() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_the_network_itself_stays_as_it_is() -> None:
    net = trained_like("pspnet_lite0", True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded = fold(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
