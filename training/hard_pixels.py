"""Online hard example mining: which pixels are hard enough to learn from.

    hard = hard_pixels(nll, labels != ignore_label, threshold=0.7, keep=1 / 16)

From Shrivastava et al., arXiv:1604.03540; for pixels with a threshold on the probability and a least number kept as in
OCNet (Yuan and Wang, arXiv:1809.00916), whose recipe for Cityscapes has 0.7 and 100,000 pixels a batch. Here the least
share is of each image's pixels and not of the batch's, so that what is kept does not depend on how a batch is spread
over processes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def hard_pixels(nll: Tensor, counted: Tensor, threshold: float, keep: float) -> Tensor:
    """Which pixels are kept, bool (N, H, W).

    nll: negative logarithm of the probability of the true class, float (N, H, W), 0 or more. counted: bool, the same
    shape; the others are never kept. threshold: pixels are kept that have a lower probability than this, and where
    they are fewer than the share `keep` of an image's counted pixels, so many of its hardest (more if some are equal).
    """
    hard = counted & (nll > -math.log(threshold))
    wanted = (counted.sum((1, 2)) * keep).ceil().long()
    for index, (count, least) in enumerate(torch.stack([hard.sum((1, 2)), wanted], dim=1).tolist()):
        if count < least:
            values = nll[index].masked_fill(~counted[index], -1.0)
            limit = values.flatten().topk(least, sorted=True).values[-1]
            hard[index] = values >= limit
    return hard
