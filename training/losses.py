"""The loss over the pixels that count, the same for one process and for many.

N processes with a part of the batch each must give the loss and the gradients of one process with the whole
batch, however the ignored pixels are spread. So the sum over a process's pixels is divided by the weight of the
pixels of *all* processes, times the number of processes, because DistributedDataParallel averages gradients.

    loss = SegmentationLoss(ignore_label=255, align_corners=model.align_corners)
    main, aux = TrainNet(model, loss)(images_nchw, labels, loss.count_valid(labels))

A step made of several micro-batches counts the pixels of all of them first and adds the losses up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from training import partial
from training.hard_pixels import hard_pixels
from training.label_sets import NotThese
from training.pspnet import PSPNet
from training.rivals import within_pairs
from training.upsample import upsample

AUX_WEIGHT = 0.4  # of the auxiliary head's loss, as in the paper


@dataclass(frozen=True)
class Terms:
    """What the loss has besides cross-entropy; the defaults are nothing."""

    class_weights: tuple[float, ...] = ()
    """Of each class, more than 0; empty: all count the same."""
    ohem: float = 0.0
    """Pixels whose class has a probability above it are left out; 0: none."""
    ohem_keep: float = 1 / 16
    """Least share of each image's pixels that is kept."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Classes to be told apart (training/rivals.py)."""
    pair_weight: float = 1.0


class SegmentationLoss(nn.Module):
    """`forward`: logits (N, C, h, w), labels int64 (N, H, W) -> scalar, float32 or wider.

    The logits are upsampled bilinearly to the labels. The mean of the result over the processes is

        1 / W  *  sum over kept pixels i of  w_i (-log p_i + pair_weight * pairs_i),    W = sum of their w_i

    with w_i the weight of the pixel's class, p_i the probability of it, pairs_i of training/rivals.py; kept are all
    valid pixels of the global batch, with OHEM the hard ones among them. Without any it is 0, with gradient 0.
    By default this is the cross-entropy per valid pixel. Pixels of which is only known what they are not (values of
    `not_these`) are valid, with weight 1; their -log p_i is in training/partial.py.
    """

    def __init__(
        self, ignore_label: int, align_corners: bool, terms: Terms = Terms(), not_these: tuple[NotThese, ...] = ()
    ) -> None:  # fmt: skip
        super().__init__()
        self.ignore_label, self.align_corners, self.terms = ignore_label, align_corners, terms
        self.not_these = not_these
        self.register_buffer("class_weights", None, persistent=False)
        self.class_weights: Tensor | None
        if terms.class_weights:
            # by label value: 0 for what is no class, 1 for what is said not to be some
            self.class_weights = torch.zeros(256, dtype=torch.float64)
            self.class_weights[: len(terms.class_weights)] = torch.tensor(terms.class_weights)
            self.class_weights[[item.value for item in not_these]] = 1

    def forward(self, logits: Tensor, labels: Tensor, num_valid: Tensor) -> Tensor:
        """`num_valid`: what `count_valid` returned for the labels of the whole step.

        These may be a part of them, but with OHEM, which counts its own pixels, they must be all.
        """
        if not self.terms.ohem and not self.terms.pairs:
            return self.cross_entropy(logits, labels, num_valid)
        logits = _wide(logits)
        losses = self._cross_entropy(self._upsampled(logits, labels), labels, None, "none")
        counted = labels != self.ignore_label
        if self.terms.ohem:
            kept = hard_pixels(losses, counted, self.terms.ohem, self.terms.ohem_keep)
            num_valid, counted = self._weigh(self._histogram(labels[kept])), kept
        if self.terms.pairs:
            pairs = within_pairs(logits, labels, self.terms.pairs, self.align_corners)
            losses = torch.add(losses, pairs, alpha=self.terms.pair_weight)
        total = (losses * self._pixel_weights(labels, counted, losses.dtype)).sum()
        return _per_weight(total, num_valid)

    def cross_entropy(self, logits: Tensor, labels: Tensor, num_valid: Tensor) -> Tensor:
        """With class weights, but without OHEM and pairs: what the auxiliary head gets. Arguments as `forward`."""
        logits = self._upsampled(_wide(logits), labels)
        weight = (
            None if self.class_weights is None else self.class_weights[: logits.shape[1]].to(logits.dtype)
        )
        return _per_weight(self._cross_entropy(logits, labels, weight, "sum"), num_valid)

    def _cross_entropy(self, logits: Tensor, labels: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
        """Of upsampled logits: a scalar for "sum", (N, H, W) for "none"."""
        shape = labels.shape
        apart = partial.losses(logits, labels, self.not_these)
        if apart is not None:
            labels = partial.hidden(labels, self.not_these, self.ignore_label)
        if torch.are_deterministic_algorithms_enabled():
            # CUDA has a deterministic loss for rows of logits only
            logits, labels = logits.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()
        losses = F.cross_entropy(logits, labels, weight, ignore_index=self.ignore_label, reduction=reduction)
        losses = losses if reduction == "sum" else losses.view(shape)
        if apart is not None:
            losses = losses + (apart.sum() if reduction == "sum" else apart)
        return losses

    def count_valid(self, labels: Tensor) -> Tensor:
        """The number of pixels that count, over all processes: int64 scalar; with class weights their sum, float64."""
        if self.class_weights is not None:
            return self._weigh(self._histogram(labels))
        num_valid = (labels != self.ignore_label).sum()
        if _num_processes() > 1:
            dist.all_reduce(num_valid)
        return num_valid

    def _upsampled(self, logits: Tensor, labels: Tensor) -> Tensor:
        size = (labels.shape[1], labels.shape[2])
        return upsample(logits, size, align_corners=self.align_corners)

    def _pixel_weights(self, labels: Tensor, counted: Tensor, dtype: torch.dtype) -> Tensor:
        """Weight of each pixel's class, 0 where it is not counted, (N, H, W)."""
        if self.class_weights is None:
            return counted.to(dtype)
        return self.class_weights.to(dtype)[labels.masked_fill(~counted, 0)] * counted

    def _histogram(self, labels: Tensor) -> Tensor:
        """Pixels of each label, int64 (256,), without the ignored ones."""
        counts = torch.bincount(labels.flatten(), minlength=256)
        counts[self.ignore_label] = 0
        return counts

    def _weigh(self, counts: Tensor) -> Tensor:
        """Sum of class weights, float64 scalar, of pixels counted in (256,), over all processes.

        Numbers of pixels are joined and not their weights, so that rounding is the same for any number of processes.
        """
        if _num_processes() > 1:
            dist.all_reduce(counts)
        if self.class_weights is None:
            return counts.sum().double()
        return counts.double() @ self.class_weights.double()


class TrainNet(nn.Module):
    """What is optimised, and what DDP wraps: images, labels, the step's valid pixels in, losses (main, aux) out.

    The auxiliary head, which is thrown away in the end, gets cross-entropy with the class weights; OHEM and pairs are
    for the head that is served.
    """

    def __init__(self, model: PSPNet, loss: SegmentationLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images_nchw: Tensor, labels: Tensor, num_valid: Tensor) -> tuple[Tensor, Tensor]:
        logits, aux_logits = self.model.forward_with_aux(images_nchw)
        with torch.autocast(images_nchw.device.type, enabled=False):
            main = self.loss(logits, labels, num_valid)
            return main, self.loss.cross_entropy(aux_logits, labels, num_valid)


_LITTLE = 1e-9
"""Less than any sum of weights but 0."""


def _wide(logits: Tensor) -> Tensor:
    """Half precision is too coarse for the sums."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _per_weight(total: Tensor, weight: Tensor) -> Tensor:
    """This process's part of the mean over all processes' pixels."""
    least = _LITTLE if weight.is_floating_point() else 1
    return total * _num_processes() / weight.clamp(min=least).to(total.dtype)


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
