"""Half the resolution: the same function at every other position, the same weights, and back again unchanged."""

from __future__ import annotations

import pytest
import torch

from training.coarse import Coarse
from training.depthwise import convert
from training.layout import Layout
from training.pspnet import PSPNet, build

LAYOUTS = {
    "pspnet_lite0": None,
    "pspnet18": Layout(width=8, head=16),
    "pspnet50": Layout(width=8, head=16),
    "pspnet50, stride in the 1x1": Layout(width=8, head=16, stride_in="1x1"),
    "pspnet18, second dilation of the stage": Layout(width=8, head=16, second="stage", contracted=True),
}


def network(name: str) -> PSPNet:
    """With batch norms that let something of the photo reach the end."""
    torch.manual_seed(0)
    net = build(name.split(",")[0], 3, layout=LAYOUTS[name])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 1)
    return net.eval()


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(64, 96), (80, 33)])
def test_every_other_position(name: str, size: tuple[int, int]) -> None:
    net = network(name)
    images_nchw = torch.randn(1, 3, *size)
    coarse = Coarse(net.backbone)
    with torch.inference_mode():
        expected = net.backbone(images_nchw)
        logits = net(images_nchw)
        coarse.switch(on=True)
        halved = net.backbone(images_nchw)
        assert net(images_nchw).shape[2:] == tuple(-(-side // 16) for side in size)
        coarse.switch(on=False)
        again = net(images_nchw)
    for got, full in zip(halved, expected, strict=True):
        assert full.std() > 0
        torch.testing.assert_close(got, full[:, :, ::2, ::2], rtol=1e-3, atol=1e-4 * full.std().item())
    assert torch.equal(again, logits)


def test_with_the_fast_depthwise_convolutions() -> None:
    """They were swapped for the dilated ones; halved, some of them have dilation 1."""
    net = network("pspnet_lite0")
    coarse = Coarse(net.backbone)
    coarse.switch(on=True)
    images_nchw = torch.randn(2, 3, 81, 65)
    with torch.inference_mode():
        expected = net(images_nchw)
        coarse.switch(on=False)
        convert(net)
        coarse.switch(on=True)
        torch.testing.assert_close(net(images_nchw), expected, rtol=1e-3, atol=1e-3)
