"""Labels that say only some of it, filled in by a trained model where it is sure: self-training.

    python -m training.self_label runs/rooms/model.safetensors --data furniture/dataset.toml --out furniture_filled
    python -m training.train --data rooms/dataset.toml furniture_filled/dataset.toml --out runs/rooms2 …

Photos whose labels leave most pixels open (ignored, or only said not to be some class) teach little of walls and
floors. A model that learnt them elsewhere labels those pixels, and the next model learns from the photos as well
(pseudo-labels: Lee, ICML workshop 2013; Xie et al., arXiv:1911.04252). What people labelled stays as it is, and a pixel
gets no class that its label rules out. What the model has wrong it teaches on: look at contact_sheet.png in OUT.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from segserve import cli, encode
from segserve.errors import UsageError
from segserve.labels import IGNORE_LABEL
from segserve.segmenter import Segmenter
from training import label_sets, pairs, prepare, prepare_report
from training.data import Dataset, load_dataset
from training.description import Sample, shown
from training.evaluated_model import load_segmenter, require_same_classes, unpacked
from training.looks import Ways, fuse, look_at
from training.prepare_options import require_empty
from training.remap import Remap
from training.sources.item import Item
from training.splits import Split

LOOKS = Ways(flip=True)
"""The mean of a photo and its mirror image is surer where it should be."""


@dataclass(frozen=True)
class SelfLabelConfig:
    """Options of the command."""

    what: tyro.conf.Positional[Path]
    """The model: a checkpoint (.safetensors), a folder made by export.build, or a .mar."""
    data: Path
    """The dataset's description, a TOML file."""
    out: Path
    """Folder to write; made if missing, must be empty."""
    root: Path | None = None
    """Folder that the description's paths are relative to; its own folder if left out."""
    split: str = "train"
    """Which of the description's splits. Not the one that models are judged on."""
    sure: float = 0.9
    """Probability from which a class is believed."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print what was filled as JSON instead of lines."""

    def __post_init__(self) -> None:
        if not 0 < self.sure <= 1:
            raise UsageError(f"--sure {self.sure}: expected a probability above 0, at most 1")
        require_empty(self.out)


def main(config: SelfLabelConfig) -> None:
    """Fill, write, tell. Raises UsageError, DatasetError, SpecError, EngineError, CheckpointError."""
    dataset = load_dataset(config.data, config.split, config.root)
    _require_names(dataset)
    with unpacked(config.what) as what:
        segmenter = load_segmenter(what)
        require_same_classes(segmenter, dataset)
        console = Console(stderr=True)
        bar = track(dataset.samples, "self-label", console=console, disable=not console.is_terminal)
        with pairs.whole(config.out):
            before, filled = label_all(bar, dataset, segmenter, config)
    tell(config, dataset, before, filled)


def _require_names(dataset: Dataset) -> None:
    """Raises UsageError where an image's name can't be written into a list, rather now than after all are labelled."""
    names = [sample.image.name for sample in dataset.samples]
    if wrong := [shown(name) for name in names if shown(name) != name]:
        raise UsageError(
            f"{dataset.name}: names of images must be UTF-8; rename {', '.join(wrong[:3])}, {len(wrong)} in all"
        )


def label_all(
    samples: Iterable[Sample], dataset: Dataset, segmenter: Segmenter, config: SelfLabelConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write the dataset. Returns: pixels of each class before and after, the last entry the open ones."""
    num_classes = dataset.num_classes
    not_these = label_sets.number((item.classes for item in dataset.not_these), num_classes, IGNORE_LABEL)
    stored = np.arange(256, dtype=np.uint8)  # the same, but for a dataset with another ignore label
    stored[[dataset.ignore_label, *(item.value for item in dataset.not_these)]] = (
        IGNORE_LABEL, *(item.value for item in not_these),
    )  # fmt: skip
    pairs.make_folders(config.out)
    before, members = np.zeros(num_classes + 1, np.int64), []
    for sample in samples:
        photo, label = dataset.read(sample)
        mask, confidence = fuse(
            list(look_at(photo, segmenter, LOOKS)),
            label.shape[0],
            label.shape[1],
            segmenter.spec.align_corners,
        )
        before += _pixels(label, num_classes)
        label = stored[fill(label, mask, confidence >= config.sure, dataset)]
        item = Item(sample.image.stem, sample.image, sample.label, config.split)
        members.append(pairs.write(config.out, item, Image.fromarray(photo), label, num_classes))
    split = Split({config.split: tuple(members)}, (), {config.split: len(members)})
    report = prepare_report.report(dataset.classes, split, [], [], f"{dataset.name}, {config.split}")
    prepare.write(config.out, Remap(dataset.classes, {}, not_these), split, report)
    after = np.sum([(*member.pixels, member.ignored) for member in members], axis=0)
    return before, after


def fill(
    label: NDArray[np.uint8], mask: NDArray[np.uint8], sure: NDArray[np.bool_], dataset: Dataset
) -> NDArray[np.uint8]:
    """The label with open pixels filled, all (H, W): what the label leaves open, and of it what the mask is sure of."""
    left_open = label == dataset.ignore_label
    for item in dataset.not_these:
        left_open |= (label == item.value) & ~np.isin(mask, item.classes)
    return np.where(left_open & sure, mask, label)


def _pixels(label: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    pixels = encode.shares(label, num_classes)
    return np.append(pixels, label.size - pixels.sum())


def tell(
    config: SelfLabelConfig, dataset: Dataset, before: NDArray[np.int64], after: NDArray[np.int64]
) -> None:
    """Shares of all pixels, by class, as they were labelled and as they are now."""
    whole = before.sum()
    rows = [
        {"class": name, "before": int(before[label]) / whole, "after": int(after[label]) / whole}
        for label, name in enumerate((*dataset.classes, None))
    ]
    if config.as_json:
        print(json.dumps({"images": len(dataset.samples), "sure": config.sure, "shares": rows}))
        return
    for row in rows:
        print(
            f"{row['class'] or '(open)'}: {100 * row['before']:.1f} to {100 * row['after']:.1f} % of the pixels"
        )
    print(f"{config.out / 'dataset.toml'} has the split {config.split}; look at contact_sheet.png beside it")


if __name__ == "__main__":
    cli.run(SelfLabelConfig, main)
