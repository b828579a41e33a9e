"""Objects of one training crop, laid over another: rare things in more places than photos show them in.

    python -m training.train … --paste bed chair sofa table plant --paste-probability 0.5

Copy-paste (Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation, CVPR 2021,
arXiv:2012.07177, section 3: hard edges, no fitting context), here by class instead of by instance, as label maps have
none. Where labels say only some of it, an object that one source outlines comes before what another source labels. Its
place, size and colours are those of the other crop, which was augmented on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset
from torch.utils.data import Dataset as TorchDataset

from segserve.errors import UsageError
from training.data import TrainSamples

STREAM = 1  # beside (seed, epoch, index), from which the crops themselves are drawn


class Pasted(TorchDataset[tuple[Tensor, Tensor]]):
    """The items of `parts`, one after the other; over a share of them lie the objects of another, drawn from them all.

    Items as in TrainSamples. What item `index` is depends on (seed, epoch, index) alone, the parts' seed and epoch.
    """

    def __init__(self, parts: Sequence[TrainSamples], names: Sequence[str], probability: float) -> None:
        """names: of the classes that are objects. Raises UsageError for one that the datasets don't have."""
        classes = parts[0].dataset.classes
        if unknown := [name for name in names if name not in classes]:
            raise UsageError(f"--paste {' '.join(unknown)}: the classes are {', '.join(classes)}")
        self.crops: ConcatDataset[tuple[Tensor, Tensor]] = ConcatDataset(parts)
        self.first, self.probability = parts[0], probability
        self.objects = torch.tensor([classes.index(name) for name in names])

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.crops[index]
        rng = np.random.default_rng((self.first.seed, self.first.epoch, index, STREAM))
        if rng.random() >= self.probability:
            return image, label
        other, other_label = self.crops[int(rng.integers(len(self)))]
        objects = torch.isin(other_label, self.objects)
        return torch.where(objects, other, image), torch.where(objects, other_label, label)
