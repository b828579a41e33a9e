"""Read a labelled dataset: a folder of images, a folder of label PNGs, and a small TOML file that describes both.

One loader for every dataset, so that a wrong label file is found by name instead of by a strange loss. Files are
looked for when the dataset is loaded; sizes and label values are checked when a sample is read.

    name = "camvid"
    classes = ["Sky", "Building"]    # label value = index
    ignore_label = 255               # what ignored pixels become (255 if left out)
    ignore_values = [11]             # label values in the files that are ignored as well (optional)
    [splits.train]
    images = "train"                 # folder; every image in it has a label of the same stem, .png, in `labels`
    labels = "train_labels"
    list = "train.txt"               # optional: only these stems, one a line

Paths are relative to the folder of the TOML file, or to `--root` where a command has it.
"""

from __future__ import annotations

import io
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segserve import geometry, image
from segserve.errors import DatasetError, RequestError
from segserve.labels import IGNORE_LABEL
from training import transforms

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
ORIENTATION_TAG = 274  # EXIF; values 5 to 8 swap height and width


@dataclass(frozen=True)
class Sample:
    """One photo and its label map."""

    image: Path
    label: Path


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset, files known to exist."""

    name: str
    split: str
    classes: tuple[str, ...]
    ignore_label: int
    ignore_values: tuple[int, ...]
    samples: tuple[Sample, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) upright RGB and label (H, W). Raises DatasetError, which names the file."""
        photo = read_image(sample.image)
        return photo, self.read_label(sample, photo.shape[0], photo.shape[1])

    def read_label(self, sample: Sample, height: int, width: int) -> NDArray[np.uint8]:
        """The label uint8 (height, width) of a photo of that upright size; only classes and `ignore_label` in it."""
        label = read_label(sample.label, self.num_classes, self.ignore_label, self.ignore_values)
        if label.shape != (height, width):
            raise DatasetError(_size_message(sample, label.shape[0], label.shape[1], height, width))
        return label


# --- description --------------------------------------------------------------------------------------------


def load_dataset(description: Path, split: str, root: Path | None = None) -> Dataset:
    """Read a description (module docstring) and find the files of one split.

    Raises DatasetError: description missing or wrong, no such split, folder missing, image without label.
    """
    table = _read_description(description)
    name, classes, ignore_label, ignore_values = _check_labels(table, description)
    splits = table.get("splits")
    if not isinstance(splits, dict) or split not in splits:
        known = ", ".join(splits) if isinstance(splits, dict) else "none"
        raise DatasetError(f"{description}: no split '{split}' (splits there: {known})")
    where = f"{description}, splits.{split}"
    entry = splits[split]
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise DatasetError(f"{where}: expected a table of text: images, labels and, optionally, list")
    _check_keys(entry, {"images", "labels"}, {"list"}, where)
    samples = _find_samples(root or description.parent, entry, where)
    return Dataset(name, split, classes, ignore_label, ignore_values, samples)


def _read_description(description: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(description.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"{description}: cannot be read ({error.strerror}); it should be a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{description}: not TOML: {error}") from error
    _check_keys(table, {"name", "classes", "splits"}, {"ignore_label", "ignore_values"}, str(description))
    return table


def _check_keys(table: dict[str, Any], needed: set[str], optional: set[str], where: str) -> None:
    missing, unknown = sorted(needed - set(table)), sorted(set(table) - needed - optional)
    if missing or unknown:
        raise DatasetError(
            f"{where}: missing keys {missing}, unknown keys {unknown}; "
            f"expected {sorted(needed)}, optionally {sorted(optional)}"
        )


def _check_labels(table: dict[str, Any], where: Path) -> tuple[str, tuple[str, ...], int, tuple[int, ...]]:
    name, classes = table["name"], table["classes"]
    ignore_label, ignore_values = table.get("ignore_label", IGNORE_LABEL), table.get("ignore_values", [])
    if not isinstance(name, str) or not name:
        raise DatasetError(f"{where}: name is {name!r}, expected text")
    if not isinstance(classes, list) or not all(isinstance(item, str) and item for item in classes):
        raise DatasetError(f"{where}: classes is {classes!r}, expected a list of names")
    if not 1 <= len(classes) <= 255 or len(set(classes)) != len(classes):
        raise DatasetError(f"{where}: {len(classes)} classes, expected 1 to 255 different names")
    if not isinstance(ignore_values, list):
        raise DatasetError(f"{where}: ignore_values is {ignore_values!r}, expected a list of label values")
    for value in (ignore_label, *ignore_values):
        if type(value) is not int or not len(classes) <= value <= 255:
            raise DatasetError(
                f"{where}: ignored value {value!r}, expected an integer from {len(classes)} "
                f"(0 to {len(classes) - 1} are classes) to 255"
            )
    return name, tuple(classes), ignore_label, tuple(ignore_values)


def _find_samples(root: Path, entry: dict[str, str], where: str) -> tuple[Sample, ...]:
    images_folder, labels_folder = root / entry["images"], root / entry["labels"]
    for folder in (images_folder, labels_folder):
        if not folder.is_dir():
            raise DatasetError(f"{where}: no folder {folder}; give the folder of the data as root")
    images: dict[str, Path] = {}
    for path in sorted(images_folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            if path.stem in images:
                raise DatasetError(
                    f"{where}: {images[path.stem]} and {path.name} would share one label; remove one"
                )
            images[path.stem] = path
    stems = _read_list(root / entry["list"], images) if "list" in entry else list(images)
    samples = tuple(Sample(images[stem], labels_folder / f"{stem}.png") for stem in stems)
    if not samples:
        raise DatasetError(
            f"{where}: no images in {images_folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    unlabelled = [sample for sample in samples if not sample.label.is_file()]
    if unlabelled:
        first = unlabelled[0]
        raise DatasetError(
            f"{where}: {len(unlabelled)} of {len(samples)} images have no label, "
            f"first {first.image}: expected {first.label}"
        )
    return samples


def _read_list(path: Path, images: dict[str, Path]) -> list[str]:
    try:
        stems = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: the list of stems cannot be read: {error}") from error
    missing = [stem for stem in stems if stem not in images]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(stems)} stems have no image, first '{missing[0]}'"
        )
    return stems


# --- files --------------------------------------------------------------------------------------------------


def read_image(path: Path) -> NDArray[np.uint8]:
    """Upright RGB uint8 (H, W, 3), decoded exactly as the server decodes. Raises DatasetError."""
    try:
        return image.decode(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    except RequestError as error:
        raise DatasetError(f"{path}: {error}") from error


def read_label(
    path: Path, num_classes: int, ignore_label: int, ignore_values: tuple[int, ...] = ()
) -> NDArray[np.uint8]:
    """Label map uint8 (H, W) of a grey or palette PNG; `ignore_values` become `ignore_label`.

    Raises DatasetError: not such a PNG, or values that are neither a class nor ignored (names file and values).
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as png:
            if png.mode not in ("L", "P"):
                raise DatasetError(
                    f"{path}: a label of mode {png.mode}, expected an 8-bit grey or a palette PNG"
                )
            # Byte 24 of a PNG is the bit depth. Pillow stretches grey of fewer bits to 0..255: other classes.
            if png.mode == "L" and data[24] != 8:
                raise DatasetError(f"{path}: grey of {data[24]} bits, expected 8; save the label anew")
            values = np.asarray(png)
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable PNG: {error}") from error
    table = np.full(256, -1, np.int16)
    table[:num_classes] = np.arange(num_classes)
    table[[ignore_label, *ignore_values]] = ignore_label
    label: NDArray[np.int16] = table[values]
    if label.min() < 0:
        foreign = np.unique(values[label < 0])
        raise DatasetError(
            f"{path}: label values {foreign.tolist()} are neither a class (0 to {num_classes - 1}) nor ignored "
            f"({sorted({ignore_label, *ignore_values})}); fix the file or add them to ignore_values"
        )
    return label.astype(np.uint8)


def _size_message(sample: Sample, label_height: int, label_width: int, height: int, width: int) -> str:
    message = (
        f"{sample.label}: label is {label_width}x{label_height}, its image {sample.image} {width}x{height}"
    )
    with Image.open(sample.image) as stored:
        turned = stored.getexif().get(ORIENTATION_TAG, 1) >= 5
    if turned and (label_height, label_width) == (width, height):
        message += "; the image's EXIF orientation turns it, so the label must be drawn for the upright image"
    return message


# --- samples for torch --------------------------------------------------------------------------------------


class TrainSamples(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Augmented crops. What item `index` is depends on (seed, epoch, index) alone: not on workers or processes.

    Item: image float32 (3, crop_height, crop_width) normalised, label int64 (crop_height, crop_width).
    mean, std: on 0..255, RGB.
    """

    def __init__(
        self,
        dataset: Dataset,
        crop_height: int,
        crop_width: int,
        seed: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        augmentation: transforms.Augmentation | None = None,
    ) -> None:
        self.dataset, self.seed, self.mean, self.std = dataset, seed, mean, std
        self.crop_height, self.crop_width = crop_height, crop_width
        self.augmentation = augmentation or transforms.Augmentation()
        # In shared memory, because workers that persist keep the copy of this object that they started with.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Call before each epoch's iteration starts; the crops of an epoch differ from those of the others."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.dataset.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        photo, label = self.dataset.read(self.dataset.samples[index])
        rng = np.random.default_rng((self.seed, int(self._epoch[0]), index))
        crop, crop_label = transforms.augment(
            rng, photo, label, self.crop_height, self.crop_width, self.augmentation, self.dataset.ignore_label
        )
        return normalise(crop, self.mean, self.std), torch.from_numpy(crop_label.astype(np.int64))


class EvalSamples(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Whole photos, letterboxed as the server does it; the label follows by nearest neighbour, padding ignored.

    For the evaluation during training, at the network's input size. `training.evaluate` gives the figures at
    the photos' own sizes. Items as in TrainSamples.
    """

    def __init__(
        self,
        dataset: Dataset,
        height: int,
        width: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self.dataset, self.height, self.width, self.mean, self.std = dataset, height, width, mean, std

    def __len__(self) -> int:
        return len(self.dataset.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        photo, label = self.dataset.read(self.dataset.samples[index])
        inputs, placed = geometry.to_input(photo, self.height, self.width)
        content = Image.fromarray(label).resize(
            (placed.content_width, placed.content_height), Image.Resampling.NEAREST
        )
        framed = np.full((self.height, self.width), self.dataset.ignore_label, np.int64)
        bottom, right = placed.top + placed.content_height, placed.left + placed.content_width
        framed[placed.top : bottom, placed.left : right] = np.asarray(content)
        return normalise(inputs, self.mean, self.std), torch.from_numpy(framed)


def normalise(
    image_hwc: NDArray[np.uint8], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W): (x - mean) / std, both on 0..255."""
    scaled = (image_hwc - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
