"""Let rare classes win where that brings mIoU, and nowhere else: one constant for each class, in the classifier's bias.

    python -m training.rebalance runs/x/best.safetensors --data kitchens/dataset.toml --out runs/x/model2.safetensors
    python -m training.rebalance runs/x/best.safetensors --data floors/dataset.toml --classes floor --out …

The likeliest class of a pixel is right most often, but that is not what IoU asks for: there a class should win from a
probability of IoU / (1 + IoU) on (Nowozin, CVPR 2014), so a pole that is hard to see long before one half. A network
trained with class weights errs to the other side and paints poles over what is beside them. So after training each
class's logit gets the constant that makes mIoU on the split "val" largest, one class after the other until none helps
(coordinate ascent), over a sample of the labelled pixels, as served. The network stays what it is, and as fast; its
probabilities are no frequencies any more.

Constants that fit a split may not fit other photos. So they are also fitted on each half of it (in the order of the
description, where frames of a clip are neighbours) and judged on the other; without a gain there, nothing is written,
and the exit code is 1.

With --classes only these get a constant, for their own IoU, whatever the others lose: a model whose floor is right. It
is all that partial labels can tell, such as masks of floors, so for those it must be given.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from segserve import cli
from segserve.errors import CheckFailed, DatasetError, RequestError, UsageError
from segserve.segmenter import Segmenter
from training.checkpoint import load_checkpoint, require_another, save_checkpoint
from training.class_names import CLASSIFIERS
from training.data import Dataset, load_dataset
from training.description import Sample
from training.evaluated_model import load_segmenter, require_same_classes
from training.points import at_points
from training.shifts import Pixels, fit, miou

PIXELS = 20_000
"""Of a photo on average: the same share of all, as each labelled pixel counts the same in mIoU."""
MAX_VALUES = 50_000_000
"""Logits that are held, 200 MB, and some 600 while they are fitted; with more classes fewer pixels are taken."""
WORTH_IT = 0.001
"""Of mIoU on the other half, so that it is no chance of the pixels that were drawn."""


@dataclass(frozen=True)
class RebalanceConfig:
    """Options of the command."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint (.safetensors); model.safetensors of a training, too."""
    data: Path
    """The dataset's description, a TOML file."""
    out: Path
    """The checkpoint to write."""
    root: Path | None = None
    """Folder that the description's paths are relative to; its own folder if left out."""
    classes: tuple[str, ...] = ()
    """Fit these classes alone, for their IoU alone; left out: all, for mIoU."""
    split: str = "val"
    """Which of the description's splits; the one that was trained on would tell nothing."""
    seed: int = 0
    """Of the choice of pixels."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        require_another(self.checkpoint, self.out)


def main(config: RebalanceConfig) -> None:
    """Fit, judge, write. Raises CheckFailed where it brings nothing; UsageError, DatasetError, CheckpointError."""
    dataset = load_dataset(config.data, config.split, config.root)
    if load_checkpoint(config.checkpoint)[1].majority is not None:
        raise UsageError(
            f"{config.checkpoint} has classes that need a majority, which constants would undo: rebalance the "
            "checkpoint that training.majority was given"
        )
    segmenter = load_segmenter(config.checkpoint)
    require_same_classes(segmenter, dataset)
    chosen = chosen_classes(config.classes, dataset)
    pixels, border = look(segmenter, dataset, config.seed)
    found, shifts = facts(pixels, border, chosen, dataset)
    if config.as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        Console().print(table(found, f"{config.checkpoint.name} on {dataset.name} {dataset.split}"))
    before, after = found["held_out_miou"]
    if not after - before >= WORTH_IT:
        raise CheckFailed(
            f"constants fitted on one half of {dataset.name} {dataset.split} bring nothing on the other "
            f"({measure(found)} {100 * before:.2f} to {100 * after:.2f} %): nothing is written, keep "
            f"{config.checkpoint}"
        )
    write(config, shifts, found)


def chosen_classes(names: tuple[str, ...], dataset: Dataset) -> list[int]:
    """Labels of --classes, none where it was left out.

    Raises UsageError for a name that is no class; DatasetError for labels that can't judge it, or any without names.
    """
    if unknown := [name for name in names if name not in dataset.classes]:
        raise UsageError(f"--classes {unknown[0]}: expected some of {', '.join(dataset.classes)}")
    chosen = [label for label, name in enumerate(dataset.classes) if name in names]
    if not dataset.not_these:
        return chosen
    sets = [set(item.classes) for item in dataset.not_these]
    judged = set.intersection(*sets)
    if not chosen or not judged.issuperset(chosen):
        names_judged = ", ".join(dataset.classes[label] for label in sorted(judged)) or "no class"
        raise DatasetError(
            f"{dataset.name} {dataset.split} has [partial] labels, which tell of {names_judged} alone where it is and "
            "where not: name these with --classes, or give a dataset whose labels say what each pixel is"
        )
    return chosen


def look(segmenter: Segmenter, dataset: Dataset, seed: int) -> tuple[Pixels, int]:
    """Labelled pixels of the photos with their logits, as served, and how many of them are of the first half.

    Raises DatasetError for an unusable file, or fewer than two photos with labelled pixels.
    """
    rng, share = np.random.default_rng(seed), share_of(dataset)
    console = Console(stderr=True)
    bar = track(dataset.samples, "look", console=console, disable=not console.is_terminal)
    photos = [
        photo for sample in bar if len((photo := look_at(segmenter, dataset, sample, share, rng)).labels)
    ]
    if len(photos) < 2:
        raise DatasetError(
            f"{dataset.name} {dataset.split}: {len(photos)} images with labelled pixels, expected two or more, to "
            "judge one by the other"
        )
    return Pixels.joined(photos), sum(len(photo.labels) for photo in photos[: len(photos) // 2])


def share_of(dataset: Dataset) -> float:
    """Of each photo's labelled pixels. Raises DatasetError for a label that cannot be opened."""
    total = 0
    for sample in dataset.samples:
        try:
            with Image.open(sample.label) as label:
                total += label.width * label.height
        except (OSError, ValueError) as error:
            raise DatasetError(f"{sample.label}: cannot be read ({error})") from error
    wanted = min(PIXELS * len(dataset.samples), MAX_VALUES // dataset.num_classes)
    return min(1.0, wanted / max(1, total))


def look_at(
    segmenter: Segmenter, dataset: Dataset, sample: Sample, share: float, rng: np.random.Generator
) -> Pixels:
    """A share of the labelled pixels of one photo; one at least if there are any."""
    try:
        prepared = segmenter.prepare(sample.image.read_bytes())
    except OSError as error:
        raise DatasetError(f"{sample.image}: cannot be read ({error.strerror})") from error
    except RequestError as error:
        raise DatasetError(f"{sample.image}: {error}") from error
    logits = segmenter.logits([prepared])[0].astype(np.float32, copy=False)
    place = prepared.geometry
    label = dataset.read_label(sample, place.photo_height, place.photo_width)
    labelled = np.flatnonzero(label != dataset.ignore_label)
    chosen = np.sort(rng.permutation(labelled)[: math.ceil(share * len(labelled))])
    y, x = np.divmod(chosen, label.shape[1])
    rows = place.rows(logits.shape[1], segmenter.spec.align_corners)[y]
    columns = place.columns(logits.shape[2], segmenter.spec.align_corners)[x]
    values = at_points(logits, rows, columns).T
    return Pixels(np.ascontiguousarray(values, np.float32), label[y, x])


def facts(
    pixels: Pixels, border: int, chosen: list[int], dataset: Dataset
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """What constants bring, and they. mIoU as a pair (before, after), 0 to 1. `border`: pixels of the first half.

    chosen: the classes that get one, for the mean of theirs; none: all.
    """
    halves = pixels[:border], pixels[border:]
    if missing := [
        dataset.classes[label] for label in chosen if not all((h.labels == label).any() for h in halves)
    ]:
        raise DatasetError(
            f"{dataset.name} {dataset.split}: {missing[0]} is not labelled in both halves of the images, so that a "
            "constant for it can't be judged"
        )
    held_out = [
        (miou(b.iou(), chosen), miou(b.iou(fit(a, chosen)), chosen)) for a, b in (halves, halves[::-1])
    ]
    shifts = fit(pixels, chosen)
    before, after = pixels.iou(), pixels.iou(shifts)
    found = {
        "data": dataset.name, "split": dataset.split, "images": len(dataset.samples), "pixels": len(pixels.labels),
        "fitted": [dataset.classes[label] for label in chosen] or list(dataset.classes),
        "miou": (miou(before, chosen), miou(after, chosen)),
        "held_out_miou": tuple(np.mean(held_out, axis=0).tolist()),
        "classes": {
            name: {"shift": float(shift), "iou": [None if np.isnan(v) else float(v) for v in (was, now)]}
            for name, shift, was, now in zip(dataset.classes, shifts, before, after, strict=True)
        },
    }  # fmt: skip
    return found, shifts


def measure(found: dict[str, Any]) -> str:
    """What is made largest, in words."""
    return "mIoU" if len(found["fitted"]) == len(found["classes"]) else f"IoU of {', '.join(found['fitted'])}"


def table(found: dict[str, Any], title: str) -> Table:
    """Constants, and IoU with and without them."""
    result = Table(title=escape(f"{title}, {found['pixels']} pixels"), title_justify="left")
    for column in ("class", "added to its logit", "IoU % before", "after"):
        result.add_column(column, justify="left" if column == "class" else "right")
    for name, row in found["classes"].items():
        shown = ("-" if value is None else f"{100 * value:.2f}" for value in row["iou"])
        result.add_row(escape(name), f"{row['shift']:+.2f}", *shown)
    result.add_section()
    name = escape(measure(found))
    for row_name, key in ((name, "miou"), (f"{name}, fitted on the other half", "held_out_miou")):
        result.add_row(row_name, "", *(f"{100 * value:.2f}" for value in found[key]))
    return result


def write(config: RebalanceConfig, shifts: NDArray[np.float64], found: dict[str, Any]) -> None:
    """The checkpoint with the constants in the main classifier's bias, and what was done in its provenance."""
    state, meta = load_checkpoint(config.checkpoint, cast=False)
    name = f"{CLASSIFIERS[0]}.bias"
    state[name] = (state[name].double() + torch.from_numpy(shifts)).to(state[name].dtype)
    said = {key: found[key] for key in ("data", "split", "images", "fitted", "miou", "held_out_miou")}
    said["shifts"] = {key: row["shift"] for key, row in found["classes"].items()}
    provenance = {**meta.provenance, "rebalanced": json.dumps(said)}
    # its metrics are those of the network without the constants
    save_checkpoint(config.out, state, dataclasses.replace(meta, metrics={}, provenance=provenance))


if __name__ == "__main__":
    cli.run(RebalanceConfig, main)
