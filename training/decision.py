"""What a network makes of its logits before they leave it: nothing, or a majority for some classes.

model.decide = decision(meta)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.meta import CheckpointMeta


class Majority(nn.Module):
    """These classes win only against all others together; logits (N, num_classes, h, w) -> the same, in float32.

    Each loses log(sum of the others' probabilities / the largest of them), so that it is the largest logit where its
    probability is above one half, and no other class's place changes. That is Bayes' rule for the question "this class
    or not", which masks and the IoU of one class ask; the likeliest of many classes answers another.
    """

    chosen: Tensor

    def __init__(self, labels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.labels = tuple(labels)
        # (labels, 1, num_classes, 1, 1), 1 at the class; no weight, so it is in no checkpoint
        marks = nn.functional.one_hot(torch.tensor(self.labels), num_classes).float()
        self.register_buffer("chosen", marks[:, None, :, None, None], persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        result = logits
        for index, label in enumerate(self.labels):
            others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
            best = others.amax(dim=1, keepdim=True)
            more = (others - best).exp().sum(dim=1, keepdim=True).log()
            result = result - more * self.chosen[index].float()
        return result


def decision(meta: CheckpointMeta) -> nn.Module:
    """What the checkpoint asks for."""
    if meta.majority is None:
        return nn.Identity()
    return Majority([meta.classes.index(name) for name in meta.majority], len(meta.classes))
