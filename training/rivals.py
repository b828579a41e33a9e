"""A loss within pairs of classes that are taken for each other: wall and floor, floor and ceiling.

Cross-entropy spreads its gradient over all classes by their probability. For a pixel of class a whose rivals are R(a),
this adds the logistic loss of telling a from each of them, as if there were no third class (Bradley and Terry 1952):

    sum over b in R(a) of softplus(z_b - z_a) = -log sigmoid(z_a - z_b)

Its gradient on z_b is sigmoid(z_b - z_a), which is never less than the p_b that cross-entropy gives. Pixels of classes
in no pair get 0.

    loss_nhw = within_pairs(logits, labels, pairs=((0, 1),), align_corners=True)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.upsample import upsample


def within_pairs(
    logits: Tensor, labels: Tensor, pairs: Sequence[tuple[int, int]], align_corners: bool
) -> Tensor:
    """The sum above for each pixel, float (N, H, W).

    logits: float (N, C, h, w) at the network's stride; labels: int64 (N, H, W), any value but those in `pairs` gets 0.
    Differences of logits are upsampled, not logits, which is the same, upsampling being linear, and a fraction of the
    work: a pair costs one channel.
    """
    first, second = torch.tensor(pairs, device=logits.device).unbind(1)
    apart = logits.index_select(1, second) - logits.index_select(1, first)  # z_b - z_a for each pair (a, b)
    apart = upsample(apart, (labels.shape[1], labels.shape[2]), align_corners=align_corners)
    total = torch.zeros_like(apart[:, 0])
    for (a, b), difference in zip(pairs, apart.unbind(1), strict=True):
        side = (labels == a).to(difference.dtype) - (labels == b).to(difference.dtype)
        total = total + F.softplus(side * difference) * side.abs()
    return total
