"""Find out why a model that was converted does not segment as it should.

    python -m training.doctor converted.safetensors --images photos --reference-masks masks --out doctor
    python -m training.doctor converted.safetensors --images photos --labels labels --json

Reference masks are what the original program made of the same photos with the same weights: then the smallest
difference can be explained. Labels drawn by people show only what costs more than the model's own errors. Both are
grey or palette PNGs with the photos' names. Exit code 0: nothing is wrong; 1: something is, named or not.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segserve import cli
from segserve.errors import RequestError, UsageError
from segserve.image import read
from training.assumptions import Pipeline
from training.checkpoint import load_model
from training.description import is_photo
from training.diagnosis import diagnose
from training.doctor_page import page
from training.finding import Diagnosis
from training.patient import Patient, orientation, photo_size
from training.sources.index_png import read_png
from training.sources.item import BadPair, label_finder
from training.spread import spread
from training.torch_engine import CheckpointEngine

BUDGET_S = 45.0
PASSES = 50
"""Forward passes of every photo, if the first round is not enough."""
FEWEST = 2
"""Photos, where people drew the labels: what explains one must explain others too. Of masks one is enough."""


@dataclass(frozen=True)
class DoctorConfig:
    """Options of the command."""

    checkpoint: tyro.conf.Positional[Path]
    """What to look at (.safetensors), as training.import_checkpoint or training.train wrote it."""
    images: Path
    """Folder of photos."""
    labels: Path | None = None
    """Folder of labels drawn by people: PNGs of class ids."""
    reference_masks: Path | None = None
    """Folder of masks that the original made of these photos: PNGs of class ids."""
    out: Path | None = None
    """Folder for doctor.html: the finding, everything tried, and pictures."""
    limit: int = 8
    """Photos to look at; fewer are taken where the network is slow, down to the one with the most classes, so that it
    ends in about a minute."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        if (self.labels is None) == (self.reference_masks is None):
            raise UsageError(
                "give --labels or --reference-masks: a folder of what the masks should be, one of the two"
            )
        if self.limit < 1:
            raise UsageError(f"--limit is {self.limit}, expected at least 1")
        for option, folder in (
            ("images", self.images), ("labels", self.labels), ("reference-masks", self.reference_masks)
        ):  # fmt: skip
            if folder is not None and not folder.is_dir():
                raise UsageError(f"--{option} {folder}: no such folder")


def admit(config: DoctorConfig) -> Patient:
    """Read the checkpoint and as many photos as can be looked at in time. Raises CheckpointError, UsageError.

    Timed is all that a pipeline costs for the largest photo: of a small network, decoding and resizing are the most.
    """
    model, meta = load_model(config.checkpoint)
    wanted = config.labels or config.reference_masks
    assert wanted is not None
    pairs = _pairs(config.images, wanted)
    blank = np.zeros((1, meta.input_height, meta.input_width, 3), np.uint8)
    CheckpointEngine(model, meta)(blank)  # the first call is slower than the rest
    chosen = spread(pairs, config.limit)
    photo, label = max(((_photo(photo), label) for photo, label in chosen), key=lambda pair: _area(pair[0]))
    largest = Patient(model, meta, [photo], [_label(label)])
    started = time.perf_counter()
    largest.counts(Pipeline.of(meta))
    affordable = int(BUDGET_S / PASSES / (time.perf_counter() - started))
    if affordable < FEWEST and config.reference_masks is not None:
        chosen = [max(chosen, key=_tells)]
    else:
        chosen = spread(pairs, min(config.limit, max(FEWEST, affordable)))
    return Patient(
        model, meta, [_photo(photo) for photo, _ in chosen], [_label(label) for _, label in chosen]
    )


def _tells(pair: tuple[Path, Path]) -> tuple[bool, int]:
    """How much a photo can show alone: one that lies on its side shows what EXIF does, else the most classes."""
    return orientation(_photo(pair[0])) != 1, len(np.unique(_label(pair[1])))


def _pairs(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    photos = sorted(path for path in images.iterdir() if is_photo(path))
    label_of = label_finder()
    found = [(photo, label_of(labels / f"{photo.stem}.png")) for photo in photos]
    # photos and labels may share a folder
    pairs = [(photo, label) for photo, label in found if label.is_file() and photo != label]
    if not pairs:
        raise UsageError(
            f"none of the {len(photos)} photos in {images} has a PNG of its name in {labels}; expected "
            "kitchen.jpg there and kitchen.png here"
        )
    return pairs


def _photo(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        read(data)
    except RequestError as error:
        raise UsageError(f"{path}: {error}") from None
    return data


def _area(photo: bytes) -> int:
    height, width = photo_size(photo)
    return height * width


def _label(path: Path) -> NDArray[np.uint8]:
    """Values as they are in the file: which of them are classes is what is to be found out."""
    try:
        values = read_png(path)
    except BadPair as bad:
        raise UsageError(f"{path}: {bad.reason}") from None
    if values.max() > 255:
        raise UsageError(f"{path}: values up to {values.max()}, expected class ids from 0 to 255")
    return values.astype(np.uint8)


def main(config: DoctorConfig) -> int:
    patient = admit(config)
    console = Console(stderr=True)
    with console.status("examine"):
        found = diagnose(patient, references=config.reference_masks is not None)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "doctor.html").write_text(
            page(patient, found, config.checkpoint.name), encoding="utf-8"
        )
    if config.as_json:
        content = {
            name: value
            for name, value in asdict(found).items()
            if name not in ("pipeline", "reading", "order")
        }
        print(json.dumps({**content, "healthy": found.healthy, "words": found.words()}, indent=2))
    else:
        _tell(found, len(patient.photos), config)
    return 0 if found.healthy else 1


def _tell(found: Diagnosis, photos: int, config: DoctorConfig) -> None:
    what = "1 photo" if photos == 1 else f"{photos} photos"
    table = Table(title=f"{found.measure} on {what}", title_justify="left")
    table.add_column("undone")
    table.add_column("how")
    table.add_column(f"{found.measure} %", justify="right")
    table.add_row("nothing", "as the checkpoint says", f"{100 * found.as_is:.2f}")
    for one in sorted(found.tries, key=lambda one: -one.score)[:10]:
        table.add_row(one.kind, escape(one.words), f"{100 * one.score:.2f}")
    console = Console()
    console.print(table)
    console.print(found.words(), markup=False)
    if config.out is not None:
        console.print(f"pictures: {config.out / 'doctor.html'}", markup=False)


if __name__ == "__main__":
    cli.run(DoctorConfig, main)
