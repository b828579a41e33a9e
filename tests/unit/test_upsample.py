"""Upsampling by matrix products is torch's own, forward and backward, at every size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.upsample import upsample


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("cells", "size"),
    [((3, 4), (17, 25)), ((1, 1), (5, 3)), ((6, 1), (6, 9)), ((5, 7), (5, 7)), ((9, 8), (4, 5))],
)
def test_equals_interpolate(
    cells: tuple[int, int], size: tuple[int, int], align_corners: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    a = torch.randn(2, 3, *cells, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    b = a.detach().clone().requires_grad_()
    expected = F.interpolate(a, size, mode="bilinear", align_corners=align_corners)
    with torch.autocast("cpu", torch.bfloat16):  # a training's; logits stay in float32
        got = upsample(b, size, align_corners=align_corners)
    torch.testing.assert_close(got, expected)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)  # type: ignore[no-untyped-call]
    got.backward(gradient)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(b.grad, a.grad)
