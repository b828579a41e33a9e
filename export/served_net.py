"""The network as every artefact holds it: photo bytes in, logits out, so that no caller can normalise wrongly.

Cast and normalisation are part of the graph; decoding, letterboxing and mask making stay in segserve.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

INPUT_NAME = "images_nhwc"
OUTPUT_NAME = "logits_nchw"


class ServedNet(nn.Module):
    """images_nhwc, uint8 RGB (N, H, W, 3) -> logits_nchw, float32 (N, num_classes, ceil(H/8), ceil(W/8)).

    `mean` and `std` are RGB on the 0..255 scale, as the checkpoint's description gives them. The net computes in
    `dtype`; pixels are normalised in float32 before.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.net = net.to(dtype)
        self.dtype = dtype
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, images_nhwc: Tensor) -> Tensor:
        # the cast comes first: TensorRT takes no transpose of uint8
        images_nchw = images_nhwc.float().permute(0, 3, 1, 2)
        logits: Tensor = self.net(((images_nchw - self.mean) / self.std).to(self.dtype))
        return logits.float()


def example_batch() -> Tensor:
    """What the exporters trace with: two images (a batch of 1 would be specialised), no side a multiple of 8."""
    return torch.zeros(2, 75, 101, 3, dtype=torch.uint8)
