"""Objects of one training crop, laid over another: furniture in front of floors and walls that no photo shows together.

    python -m training.train … --paste bed chair sofa table plant --paste-probability 0.5

Copy-paste (Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation, CVPR 2021,
arXiv:2012.07177, section 3: hard edges, no fitting context), here by class instead of by instance, as label maps have
none. For data that is labelled in part it does one thing more: an object with an outline comes before surroundings that
another source labels. Its place, size and colours are the other crop's, which was augmented on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from segserve.errors import UsageError
from training.data import TrainSamples

STREAM = 1  # beside (seed, epoch, index), from which the crops themselves are drawn


class Pasted(TorchDataset[tuple[Tensor, Tensor]]):
    """The items of `parts`, in their order; over a share of them lie the objects of an item drawn evenly from them all.

    What item `index` is depends on (seed, epoch, index) alone, as in TrainSamples; the parts' seed and epoch count.
    """

    def __init__(self, parts: Sequence[TrainSamples], names: Sequence[str], probability: float) -> None:
        """names: of the classes that are objects. Raises UsageError for one that the datasets don't have."""
        classes = parts[0].dataset.classes
        if unknown := [name for name in names if name not in classes]:
            raise UsageError(f"--paste {' '.join(unknown)}: the classes are {', '.join(classes)}")
        self.parts, self.probability = parts, probability
        self.objects = torch.tensor([classes.index(name) for name in names])
        self.ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.crop(index)
        rng = np.random.default_rng((self.parts[0].seed, self.parts[0].epoch, index, STREAM))
        if rng.random() >= self.probability:
            return image, label
        other, other_label = self.crop(int(rng.integers(len(self))))
        objects = torch.isin(other_label, self.objects)
        return torch.where(objects, other, image), torch.where(objects, other_label, label)

    def crop(self, index: int) -> tuple[Tensor, Tensor]:
        """Item `index` of the parts, one after the other, with nothing over it."""
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]
