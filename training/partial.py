"""The loss of pixels of which only is known what they are not.

A pixel that is none of the classes S is one of the others, so its likelihood is their probability together, and its
loss -log(1 - sum of p_c over S): maximum likelihood from a set of candidates (Jin and Ghahramani, Learning with
Multiple Labels, NIPS 2002), for organs that each source labels some of the "marginal loss" of Shi et al.,
arXiv:2007.03868. Which of the others it is, the network learns from datasets that say so.

    apart = losses(logits, labels, not_these)     # None where no pixel is like that: nothing is computed
    total = F.cross_entropy(logits, hidden(labels, not_these, 255), ignore_index=255, reduction="sum") + apart.sum()
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.label_sets import ClassSet, NotThese


def losses(logits: Tensor, labels: Tensor, not_these: Sequence[NotThese]) -> Tensor | None:
    """The loss of each pixel that carries a value of `not_these`, 0 elsewhere, (N, H, W); None if there is none.

    logits: float32 or wider (N, C, H, W); labels: int64 (N, H, W).
    """
    found: Tensor | None = None
    for item in not_these:
        here = labels == item.value
        images = here.flatten(1).any(1)  # logits are copied for the images alone that have such pixels
        if images.any():
            loss = torch.where(here[images], not_in(logits[images], item.classes), 0)
            found = logits.new_zeros(labels.shape) if found is None else found
            found = found.index_add(0, images.nonzero().flatten(), loss)
    return found


def hidden(labels: Tensor, not_these: Sequence[NotThese], ignore_label: int) -> Tensor:
    """The same labels with the pixels of `not_these` ignored."""
    for item in not_these:
        labels = labels.masked_fill(labels == item.value, ignore_label)
    return labels


def not_in(logits: Tensor, classes: ClassSet) -> Tensor:
    """-log(1 - sum of p_c over `classes`), (N, H, W), of logits (N, C, H, W).

    It is log(1 + S / R), S and R the sums of exp(logit) over these classes and over the rest. The difference of
    logsumexp(all) and logsumexp(rest) says the same, but rounds to 0 (or below) where S is small.
    """
    rest = [label for label in range(logits.shape[1]) if label not in classes]
    return F.softplus(logits[:, list(classes)].logsumexp(1) - logits[:, rest].logsumexp(1))
