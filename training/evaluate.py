"""Evaluate a checkpoint, an exported folder or a package on a dataset, as it is served.

    python -m training.evaluate model_store/demo/rooms.safetensors --data runs/rooms_data/dataset.toml
    python -m training.evaluate build/rooms --data training/datasets/rooms_mini.toml --root DATA/rooms_mini --json
    python -m training.evaluate build/rooms --engine torchscript --data …    # not the one that is served

Every photo goes through the decoder, letterbox, engine and mask making of the server, and is compared with its label
at its own size. So these are the figures that a user of the service gets: they include what resizing costs.

Labels may be partial, such as masks of floors alone: training/metrics.py says what is counted then; the pages of
--report leave out pixels of which is only known what they are not.

    … --flip --scales 0.75 1 1.25        # looks several times: what the server does not do (training/looks.py)
    … --report out/report                # report.html with the worst photos, confusions, boundaries, calibration
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from segserve import cli, encode
from segserve.errors import DatasetError, RequestError, UsageError
from segserve.segmenter import Segmenter
from segserve.spec import artefact_name
from training import label_sets
from training.confusions import as_json, pairs
from training.data import Dataset, load_dataset, read_image
from training.description import Sample
from training.evaluate_report import Report
from training.evaluated_model import load_segmenter, require_same_classes, unpacked
from training.looks import Look, Ways, fuse, look_at
from training.metrics import ConfusionMatrix, Scores
from training.seen import Seen
from training.spread import spread


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of the command."""

    what: tyro.conf.Positional[Path]
    """A checkpoint (.safetensors), a folder made by export.build (with model_spec.json), or a .mar."""
    data: Path
    """The dataset's description, a TOML file."""
    root: Path | None = None
    """Folder that the description's paths are relative to; its own folder if left out."""
    engine: str | None = None
    """Which artefact of a folder or .mar, such as openvino-int8, if not the one that is served."""
    split: str = "val"
    """Which of the description's splits."""
    limit: int | None = None
    """Evaluate only this many photos, spread evenly over the split."""
    save_masks: Path | None = None
    """Folder for the label maps as PNG, the bytes that the server would answer."""
    report: Path | None = None
    """Folder for report.html, report.json and the confusion matrix as a picture; takes about twice as long."""
    ways: Annotated[Ways, tyro.conf.arg(name="")] = field(default_factory=Ways)
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit is {self.limit}, expected at least 1")


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    samples: Sequence[Sample],
    on_seen: Callable[[Seen], None] = lambda seen: None,
    ways: Ways = Ways(),  # noqa: B008 (frozen)
    *,
    confidence: bool = False,
) -> ConfusionMatrix:
    """Segment `samples` one by one and count. `on_seen` gets each photo's label, mask and, if asked for, confidence.

    Raises DatasetError: an image or label that is unusable, or a dataset of other classes than the model's.
    """
    require_same_classes(segmenter, dataset)
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_label, dataset.not_these)
    progress = Console(stderr=True)
    for sample in track(samples, "evaluate", console=progress, disable=not progress.is_terminal):
        try:
            mask, sure = _segment(segmenter, sample.image, ways, confidence)
        except OSError as error:
            raise DatasetError(f"{sample.image}: cannot be read ({error.strerror})") from error
        except RequestError as error:
            raise DatasetError(f"{sample.image}: {error}") from error
        label = dataset.read_label(sample, mask.shape[0], mask.shape[1])
        matrix.update(label, mask)
        on_seen(Seen(sample, label_sets.hidden(label, dataset.not_these, dataset.ignore_label), mask, sure))
    return matrix


def _segment(
    segmenter: Segmenter, image: Path, ways: Ways, confidence: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Label map, uint8 (H, W), and the probability of each pixel's class, float32 (H, W), or None."""
    align_corners = segmenter.spec.align_corners
    if ways.as_served:
        prepared = segmenter.prepare(image.read_bytes())
        logits = segmenter.logits([prepared])[0]
        mask = segmenter.labels(logits, prepared)
        if not confidence:
            return mask, None
        return mask, fuse([Look(logits, prepared.geometry)], mask.shape[0], mask.shape[1], align_corners)[1]
    photo = read_image(image)
    return fuse(list(look_at(photo, segmenter, ways)), photo.shape[0], photo.shape[1], align_corners)


def table(scores: Scores, classes: tuple[str, ...], title: str) -> Table:
    """Percentages per class, and the means."""
    result = Table(title=escape(title), title_justify="left")
    result.add_column("class")
    for column in ("IoU %", "accuracy %", "share of pixels %"):
        result.add_column(column, justify="right")
    for row in zip(classes, scores.class_iou, scores.class_accuracy, scores.class_share, strict=True):
        result.add_row(escape(row[0]), *(_percent(value) for value in row[1:]))
    result.add_section()
    result.add_row("mean (mIoU, mAcc)", _percent(scores.miou), _percent(scores.macc), "")
    result.add_row("all pixels (allAcc)", "", _percent(scores.allacc), "")
    return result


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _mask_writer(folder: Path, segmenter: Segmenter) -> Callable[[Seen], None]:
    def write(seen: Seen) -> None:
        (folder / f"{seen.sample.image.stem}.png").write_bytes(
            encode.png(seen.mask, segmenter.spec.palette_rgb)
        )

    return write


def _make(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {folder}: cannot be made ({error.strerror})") from error


def main(config: EvaluateConfig) -> None:
    dataset = load_dataset(config.data, config.split, config.root)
    with unpacked(config.what) as what:
        evaluate_and_tell(config, dataset, load_segmenter(what, config.engine))


def evaluate_and_tell(config: EvaluateConfig, dataset: Dataset, segmenter: Segmenter) -> None:
    """Masks, report, and the figures on standard output."""
    samples = spread(dataset.samples, config.limit or len(dataset.samples))
    takers: list[Callable[[Seen], None]] = []
    report = Report(dataset, segmenter.spec.palette_rgb) if config.report else None
    if config.save_masks:
        _make(config.save_masks, "--save-masks")
        takers.append(_mask_writer(config.save_masks, segmenter))
    if config.report and report:
        _make(config.report, "--report")
        takers.append(report.take)

    def take(seen: Seen) -> None:
        for taker in takers:
            taker(seen)

    matrix = evaluate(segmenter, dataset, samples, take, config.ways, confidence=report is not None)
    found = _facts(config, dataset, len(samples), segmenter) | matrix.scores().as_json(dataset.classes)
    found["pairs"] = as_json(pairs(matrix)[:10], dataset.classes)
    if config.report and report:
        found |= report.write(config.report, found, matrix)
    if config.as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    title = f"{config.what.name} on {dataset.name} {dataset.split}, {len(samples)} images, {found['engine']}"
    Console().print(table(matrix.scores(), dataset.classes, title))
    for pair in found["pairs"][:3]:
        first, second = pair["classes"]
        print(
            f"{first} / {second}: {100 * pair['share']:.2f} % of the pixels, {pair['miou_points']:.2f} points of mIoU"
        )
    if config.report:
        print(f"see {config.report / 'report.html'}")


def _facts(config: EvaluateConfig, dataset: Dataset, images: int, segmenter: Segmenter) -> dict[str, Any]:
    """What was evaluated, on what, and how."""
    return {
        "what": str(config.what),
        "data": dataset.name,
        "split": dataset.split,
        "images": images,
        "images_in_split": len(dataset.samples),
        "engine": artefact_name(segmenter.engine.name, segmenter.engine.precision),
        "device": segmenter.engine.device,
        "provider": segmenter.engine.provider,
        "ways": "as served" if config.ways.as_served else asdict(config.ways),
    }


if __name__ == "__main__":
    cli.run(EvaluateConfig, main)
