"""Evaluate a checkpoint or an exported folder on a dataset, as it is served.

    python -m training.evaluate model_store/demo/rooms.safetensors --data runs/rooms_data/dataset.toml
    python -m training.evaluate build/rooms --data training/datasets/rooms_mini.toml --root DATA/rooms_mini --json

Every photo goes through the decoder, letterbox, engine and mask making of the server, and is compared with its label
at its own size. So these are the figures that a user of the service gets: they include what resizing costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segserve import cli, encode
from segserve.errors import DatasetError, RequestError, UsageError
from segserve.segmenter import Segmenter
from training.data import Dataset, load_dataset
from training.description import Sample
from training.metrics import ConfusionMatrix, Scores
from training.torch_engine import checkpoint_segmenter


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of the command."""

    what: tyro.conf.Positional[Path]
    """A checkpoint (.safetensors), or a folder made by export.build (with model_spec.json)."""
    data: Path
    """The dataset's description, a TOML file."""
    root: Path | None = None
    """Folder that the description's paths are relative to; its own folder if left out."""
    split: str = "val"
    """Which of the description's splits."""
    limit: int | None = None
    """Evaluate only this many photos, spread evenly over the split."""
    save_masks: Path | None = None
    """Folder for the label maps as PNG, the bytes that the server would answer."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit is {self.limit}, expected at least 1")


def load_segmenter(what: Path) -> Segmenter:
    """The served path for an exported folder or a checkpoint."""
    if what.is_dir():
        return Segmenter.load(what)
    if what.suffix == ".safetensors":
        return checkpoint_segmenter(what)
    raise UsageError(f"{what}: expected a checkpoint (.safetensors) or a folder made by export.build")


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    samples: tuple[Sample, ...],
    on_mask: Callable[[Sample, NDArray[np.uint8]], None] = lambda sample, mask: None,
) -> ConfusionMatrix:
    """Segment `samples` one by one and count. `on_mask` gets each label map, uint8 (H, W).

    Raises DatasetError: an image or label that is unusable, or a dataset of other classes than the model's.
    """
    if segmenter.spec.classes != dataset.classes:
        raise DatasetError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}; the model has "
            f"{', '.join(segmenter.spec.classes)}: evaluate on a dataset with the model's classes, in its order"
        )
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_label)
    progress = Console(stderr=True)
    for sample in track(samples, "evaluate", console=progress, disable=not progress.is_terminal):
        try:
            mask = segmenter.segment(sample.image.read_bytes())
        except OSError as error:
            raise DatasetError(f"{sample.image}: cannot be read ({error.strerror})") from error
        except RequestError as error:
            raise DatasetError(f"{sample.image}: {error}") from error
        matrix.update(dataset.read_label(sample, mask.shape[0], mask.shape[1]), mask)
        on_mask(sample, mask)
    return matrix


def spread(samples: tuple[Sample, ...], limit: int | None) -> tuple[Sample, ...]:
    """`limit` of the samples, evenly spaced: neighbours in a list are often frames of one scene."""
    if limit is None or limit >= len(samples):
        return samples
    return tuple(samples[index * len(samples) // limit] for index in range(limit))


def table(scores: Scores, classes: tuple[str, ...], title: str) -> Table:
    """Percentages per class, and the means."""
    result = Table(title=title, title_justify="left")
    result.add_column("class")
    for column in ("IoU %", "accuracy %", "share of pixels %"):
        result.add_column(column, justify="right")
    for row in zip(classes, scores.class_iou, scores.class_accuracy, scores.class_share, strict=True):
        result.add_row(row[0], *(_percent(value) for value in row[1:]))
    result.add_section()
    result.add_row("mean (mIoU, mAcc)", _percent(scores.miou), _percent(scores.macc), "")
    result.add_row("all pixels (allAcc)", "", _percent(scores.allacc), "")
    return result


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _mask_writer(folder: Path, segmenter: Segmenter) -> Callable[[Sample, NDArray[np.uint8]], None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--save-masks {folder}: cannot be made ({error.strerror})") from error

    def write(sample: Sample, mask: NDArray[np.uint8]) -> None:
        (folder / f"{sample.image.stem}.png").write_bytes(encode.png(mask, segmenter.spec.palette_rgb))

    return write


def main(config: EvaluateConfig) -> None:
    dataset = load_dataset(config.data, config.split, config.root)
    samples = spread(dataset.samples, config.limit)
    segmenter = load_segmenter(config.what)
    options = {"on_mask": _mask_writer(config.save_masks, segmenter)} if config.save_masks else {}
    scores = evaluate(segmenter, dataset, samples, **options).scores()
    if config.as_json:
        report = {
            "what": str(config.what),
            "data": dataset.name,
            "split": dataset.split,
            "images": len(samples),
            "images_in_split": len(dataset.samples),
            "engine": segmenter.engine.name,
            "device": segmenter.engine.device,
            "provider": segmenter.engine.provider,
        }
        print(json.dumps(report | scores.as_json(dataset.classes), indent=2, allow_nan=False))
        return
    title = f"{config.what.name} on {dataset.name} {dataset.split}, {len(samples)} images, {segmenter.engine.name}"
    Console().print(table(scores, dataset.classes, title))


if __name__ == "__main__":
    cli.run(EvaluateConfig, main)
