"""TensorBoard: losses, learning rate, mIoU, IoU of each class, and a few predictions of each epoch that is scored.

    python -m training.train ... --tensorboard
    tensorboard --logdir runs        # then look at the page that it names

Steps are epochs, so that trainings of other batch sizes lie beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segserve.errors import UsageError
from segserve.labels import palette
from training.checkpoint import CheckpointMeta

FOLDER = "tensorboard"  # in OUT
PICTURES = 4
IGNORED_GREY = 128


class Board:
    """Writes OUT/tensorboard. Raises UsageError where the package is not installed."""

    def __init__(self, out: Path, meta: CheckpointMeta) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"--tensorboard needs the package tensorboard ({error}): pip install tensorboard, or leave it out"
            ) from error
        self.meta = meta
        self.pictures: list[NDArray[np.uint8]] = []
        # what was written of epochs after the one that is resumed from is hidden
        self.writer = SummaryWriter(str(out / FOLDER), purge_step=meta.epoch + 1)

    def look(self, images: Tensor, labels: Tensor, predicted: Tensor) -> None:
        """Keep the epoch's first few: network inputs (N, 3, H, W), classes int64 (N, H, W) labelled and predicted."""
        for image, label, classes in zip(images, labels, predicted, strict=True):
            if len(self.pictures) == PICTURES:
                return
            photo = image.float().permute(1, 2, 0).numpy() * self.meta.std + self.meta.mean
            sides = photo.round().clip(0, 255).astype(np.uint8), self._colours(label), self._colours(classes)
            self.pictures.append(np.concatenate(sides, axis=1))

    def _colours(self, classes: Tensor) -> NDArray[np.uint8]:
        table = np.full((256, 3), IGNORED_GREY, np.uint8)
        table[: len(self.meta.classes)] = palette(len(self.meta.classes))
        coloured: NDArray[np.uint8] = table[classes.numpy()]
        return coloured

    def epoch(self, line: Mapping[str, Any]) -> None:
        """What metrics.jsonl gets, and the pictures: photo, label and prediction side by side."""
        epoch = line["epoch"]
        figures = {f"loss/{name}": line[name] for name in ("loss", "main_loss", "aux_loss")}
        figures |= {name: line.get(name) for name in ("learning_rate", "miou", "macc", "allacc")}
        figures |= {f"iou/{name}": row["iou"] for name, row in line.get("classes", {}).items()}
        for name, value in figures.items():
            if value is not None:  # a class that was not there, or an epoch that was not validated
                self.writer.add_scalar(name, value, epoch)
        for number, picture in enumerate(self.pictures):
            self.writer.add_image(f"val/{number}", picture, epoch, dataformats="HWC")
        self.pictures.clear()
        self.writer.flush()

    def close(self) -> None:
        """The end."""
        self.writer.close()
