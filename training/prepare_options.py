"""The options of `training.prepare`, checked before a file is read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segserve.errors import UsageError

LEFT_OUT = "left_out.csv"
Format = Literal["index", "colour", "yolo", "coco", "ade20k", "labelme"]


@dataclass(frozen=True)
class PrepareConfig:
    """What to read, what to make of it."""

    root: tyro.conf.Positional[Path]
    """Folder of the data."""
    format: Format
    """Of the labels. index: PNGs whose values are classes. colour: PNGs whose colours are. ade20k: SceneParse150."""
    out: Path
    """New folder for dataset.toml, images/, labels/, a list a split, report.json, left_out.csv, contact_sheet.png."""
    images: tuple[str, ...] = ("images",)
    """Folders of images in ROOT, for index, colour, ade20k and coco. Folders train, val and test (images_train, …) name
    the split."""
    labels: tuple[str, ...] = ()
    """A folder of labels for each of --images ("labels"; ade20k: "annotations"); coco: a JSON file for each."""
    names: Path | None = None
    """Class names. index: one a line, or `VALUE NAME`; colour: `R G B NAME`; yolo: data.yaml; labelme: one a line."""
    table: Path | None = None
    """TOML file that says what each class of the source becomes; see training/remaps/. Without: classes as they are."""
    ignore: tuple[str, ...] = ()
    """Classes, or values in index PNGs, that are ignored (255 always is, unless it has a name)."""
    labels_as_stored: bool = False
    """Labels were drawn for the images as stored, not turned as EXIF says; they are turned with them."""
    group: str | None = None
    """Expression on names (with folders: a__b) whose first bracket is the clip or house; never in two splits. A split's
    own folder (train__a__b) may be in it, and is not part of which house it is."""
    keep_duplicates: bool = False
    """Photos that look alike may be in different splits (of a camera that stands still nearly all do). Without, they
    are kept together, or what the source's splits share is left out of train."""
    val: float | None = None
    """Share of the pairs for "val". Left out: the source's own splits, or 0.1 if it has none."""
    test: float | None = None
    """Share of the pairs for "test", likewise; 0 if the source has no splits."""
    seed: int = 0
    """Of the splits."""
    max_left_out: float = 0.1
    """If more than this share of the pairs is bad there is no dataset, and exit code 1: an option will be wrong."""
    workers: int = os.cpu_count() or 1
    """Processes that read."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the report as JSON."""

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise UsageError(f"no folder {self.root}")
        # what a failed one leaves is in nobody's way
        require_empty(self.out, but=LEFT_OUT)
        if self.out.resolve().is_relative_to(self.root.resolve()):
            raise UsageError(
                f"--out {self.out} is in {self.root}, where it would be read as data; name another"
            )
        if self.format in ("index", "colour") and self.names is None:
            example = "0 wall" if self.format == "index" else "128 0 0 wall"
            raise UsageError(f"--format {self.format} needs --names FILE with lines such as `{example}`")
        if self.format == "coco" and not self.labels:
            raise UsageError("--format coco needs --images FOLDER --labels FILE.json, paths in ROOT")
        if len(self.images) != len(self.label_paths):
            raise UsageError(
                f"{len(self.images)} --images, {len(self.label_paths)} --labels: one for each is needed"
            )
        self._check_unused()
        self._check_numbers()

    def _check_unused(self) -> None:
        """Options that a format has no use for would be thought to work."""
        if self.format in ("yolo", "labelme") and (self.labels or self.images != ("images",)):
            where = "beside images/" if self.format == "yolo" else "anywhere"
            raise UsageError(
                f"--images and --labels are not for --format {self.format}, which reads all of ROOT, labels {where}: "
                "name the folder that you mean as ROOT"
            )
        if self.format in ("coco", "ade20k") and self.names is not None:
            raise UsageError(
                f"--names is not for --format {self.format}, which has its own; --table joins classes"
            )

    def _check_numbers(self) -> None:
        shares = (self.val or 0, self.test or 0, self.max_left_out)
        if not all(0 <= share <= 1 for share in shares) or sum(shares[:2]) > 1:
            raise UsageError(
                "--val, --test and --max-left-out are shares: from 0 to 1, val and test together too"
            )
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: expected 1 or more")
        try:
            re.compile(self.group or "")
        except re.error as error:
            raise UsageError(f"--group {self.group!r} is no regular expression: {error}") from error

    @property
    def label_paths(self) -> tuple[str, ...]:
        """Folders or files of labels, one for each of `images`."""
        return self.labels or (("annotations",) if self.format == "ade20k" else ("labels",))

    @property
    def own_splits(self) -> dict[str, float] | None:
        """Shares that were asked for; None if the source's splits will do."""
        if self.val is None and self.test is None:
            return None
        return {"val": 0.1 if self.val is None else self.val, "test": self.test or 0.0}


def require_empty(out: Path, but: str = "") -> None:
    """Of --out: it is not there yet, or there is nothing in it but one file. Raises UsageError."""
    if out.exists() and (not out.is_dir() or any(path.name != but for path in out.iterdir())):
        raise UsageError(f"--out {out} is not an empty folder: name a new one or empty it")
