"""Cross-entropy over the pixels that count, the same for one process and for many.

N processes with a part of the batch each must give the loss and the gradients of one process with the whole
batch, however the ignored pixels are spread. So the sum over a process's pixels is divided by the number of valid
pixels of *all* processes, times the number of processes, because DistributedDataParallel averages gradients.

    net = TrainNet(model, SegmentationLoss(ignore_label=255, align_corners=model.align_corners))
    main, aux = net(images_nchw, labels)
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from training import partial
from training.label_sets import NotThese
from training.pspnet import PSPNet

AUX_WEIGHT = 0.4  # of the auxiliary head's loss, as in the paper


class SegmentationLoss(nn.Module):
    """`forward`: logits (N, C, h, w), labels int64 (N, H, W) -> scalar, float32 or wider.

    The logits are upsampled bilinearly to the labels. The mean of the result over the processes is the
    cross-entropy per valid pixel of the global batch. Without any valid pixel it is 0, with gradient 0.
    Pixels with a value of `not_these` are valid; their loss is that of `training/partial.py`.
    """

    def __init__(
        self, ignore_label: int, align_corners: bool, not_these: tuple[NotThese, ...] = ()
    ) -> None:
        super().__init__()
        self.ignore_label, self.align_corners, self.not_these = ignore_label, align_corners, not_these

    def forward(self, logits: Tensor, labels: Tensor, num_valid: Tensor) -> Tensor:
        """`num_valid`: what `count_valid` returned for these labels."""
        size = (labels.shape[1], labels.shape[2])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is too coarse
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=self.align_corners)
        labels, apart = partial.excluded(logits, labels, self.not_these, self.ignore_label)
        total = F.cross_entropy(logits, labels, ignore_index=self.ignore_label, reduction="sum") + apart
        return total * _num_processes() / num_valid.clamp(min=1)

    def count_valid(self, labels: Tensor) -> Tensor:
        """The number of pixels that count, over all processes: int64 scalar."""
        num_valid = (labels != self.ignore_label).sum()
        if _num_processes() > 1:
            dist.all_reduce(num_valid)
        return num_valid


class TrainNet(nn.Module):
    """What is optimised, and what DDP wraps: images and labels in, losses (main, auxiliary) out."""

    def __init__(self, model: PSPNet, loss: SegmentationLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images_nchw: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits, aux_logits = self.model.forward_with_aux(images_nchw)
        num_valid = self.loss.count_valid(labels)
        with torch.autocast(images_nchw.device.type, enabled=False):
            return self.loss(logits, labels, num_valid), self.loss(aux_logits, labels, num_valid)


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
