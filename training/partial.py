"""The loss of pixels of which only is known what they are not.

A pixel that is none of the classes S is one of the others, so its likelihood is their probability together, and its
loss -log(1 - sum of p_c over S): maximum likelihood from a set of candidates (Jin and Ghahramani, Learning with
Multiple Labels, NIPS 2002), for organs that each source labels some of the "marginal loss" of Shi et al.,
arXiv:2007.03868, eq. 5. Which of the others it is, the network learns from datasets that say so.

    labels, total = excluded(logits, labels, not_these, ignore_label=255)
    total = total + F.cross_entropy(logits, labels, ignore_index=255, reduction="sum")
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.label_sets import ClassSet, NotThese


def excluded(
    logits: Tensor, labels: Tensor, not_these: Sequence[NotThese], ignore_label: int
) -> tuple[Tensor, Tensor]:
    """The loss of the pixels that carry a value of `not_these`, and labels in which they are ignored.

    logits: float32 or wider (N, C, H, W); labels: int64 (N, H, W), values: classes, `ignore_label`, `not_these`.
    Returns: labels of the other pixels, int64 (N, H, W), the same tensor if there are none of these; the sum of the
    losses of these, a scalar.
    """
    total = logits.new_zeros(())
    for item in not_these:
        here = labels == item.value
        if (images := here.flatten(1).any(1)).any():  # logits are copied for the images alone that have any
            losses = not_in(logits[images], item.classes)
            total = total + torch.where(here[images], losses, 0).sum()
            labels = labels.masked_fill(here, ignore_label)
    return labels, total


def not_in(logits: Tensor, classes: ClassSet) -> Tensor:
    """-log(1 - sum of p_c over `classes`), (N, H, W), of logits (N, C, H, W).

    It is log(1 + S / R), S and R the sums of exp(logit) over these classes and over the rest. The difference of
    logsumexp(all) and logsumexp(rest) says the same, but rounds to 0 (or below) where S is small.
    """
    rest = [label for label in range(logits.shape[1]) if label not in classes]
    return F.softplus(logits[:, list(classes)].logsumexp(1) - logits[:, rest].logsumexp(1))
