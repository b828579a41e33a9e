"""Read a labelled dataset: a folder of images, a folder of label PNGs, a small TOML file that describes both.

    dataset = load_dataset(Path("training/datasets/camvid.toml"), "val", root=Path("CAMVID"))
    photo, label = dataset.read(dataset.samples[0])

One loader for every dataset, so that a wrong label file is found by name instead of by a strange loss. Files are
looked for when the dataset is loaded; sizes and label values are checked when a sample is read.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segserve import geometry, image, resize
from segserve.errors import DatasetError, RequestError
from segserve.image import ORIENTATION_TAG
from training import description, label_sets, transforms
from training.description import Sample
from training.label_sets import NotThese


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset, files known to exist."""

    name: str
    split: str
    classes: tuple[str, ...]
    ignore_label: int
    ignore_values: tuple[int, ...]
    samples: tuple[Sample, ...]
    partial: label_sets.Partial = ()  # of the files
    not_these: tuple[NotThese, ...] = ()  # of the label maps that are read here

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) upright RGB and label (H, W). Raises DatasetError, which names the file."""
        photo = read_image(sample.image)
        return photo, self.read_label(sample, photo.shape[0], photo.shape[1])

    def read_label_file(self, path: Path) -> NDArray[np.uint8]:
        """A label file alone; values as `read_label`."""
        values = {item.classes: item.value for item in self.not_these}
        partial = {stored: values[classes] for stored, classes in self.partial}
        return read_label(path, self.num_classes, self.ignore_label, self.ignore_values, partial)

    def read_label(self, sample: Sample, height: int, width: int) -> NDArray[np.uint8]:
        """The label uint8 (height, width) of a photo of that upright size.

        In it are classes, `ignore_label` and, where the dataset is labelled in part, values of `not_these`.
        """
        label = self.read_label_file(sample.label)
        if label.shape != (height, width):
            raise DatasetError(_size_message(sample, label.shape[0], label.shape[1], height, width))
        return label


def load_dataset(description_path: Path, split: str, root: Path | None = None) -> Dataset:
    """Read a description (format: `training/description.py`) and find the files of one split.

    root: what the folders in it are relative to; the description's own folder if left out.

    Raises DatasetError: description missing or wrong, no such split, folder missing, image without label.
    """
    table = description.read(description_path)
    labels = description.labels(table, description_path)
    samples = description.samples(table, split, root or description_path.parent, description_path)
    dataset = Dataset(
        labels.name, split, labels.classes, labels.ignore_label, labels.ignore_values, samples, labels.partial
    )
    return join([dataset])[0]


def join(datasets: list[Dataset]) -> list[Dataset]:
    """The same, with one list of `not_these` for all. Of equal classes and ignore label. Raises DatasetError."""
    first, sets = datasets[0], [classes for dataset in datasets for _, classes in dataset.partial]
    not_these = label_sets.number(sets, first.num_classes, first.ignore_label)
    return [replace(dataset, not_these=not_these) for dataset in datasets]


# --- files --------------------------------------------------------------------------------------------------


def read_image(path: Path) -> NDArray[np.uint8]:
    """Upright RGB uint8 (H, W, 3), all pixels. Raises DatasetError."""
    return _read_photo(path).upright()


def read_input(path: Path, height: int, width: int) -> tuple[NDArray[np.uint8], geometry.Geometry]:
    """Network input uint8 (height, width, 3), byte for byte the server's. Raises DatasetError."""
    return resize.to_input(_read_photo(path, (height, width)), height, width)


def _read_photo(path: Path, input_size: tuple[int, int] | None = None) -> image.Photo:
    try:
        return image.read(path.read_bytes(), input_size=input_size)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    except RequestError as error:
        raise DatasetError(f"{path}: {error}") from error


def read_label(
    path: Path,
    num_classes: int,
    ignore_label: int,
    ignore_values: tuple[int, ...] = (),
    partial: Mapping[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Label map uint8 (H, W) of a grey or palette PNG; `ignore_values` become `ignore_label`, `partial` what it says.

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
    for stored, value in (partial or {}).items():
        table[stored] = value
    label: NDArray[np.int16] = table[values]
    if label.min() < 0:
        foreign = np.unique(values[label < 0])
        raise DatasetError(
            f"{path}: label values {foreign.tolist()} are neither a class (0 to {num_classes - 1}) nor ignored "
            f"({sorted({ignore_label, *ignore_values})}) nor in [partial] ({sorted(partial or {})}); fix the file or "
            "add them to ignore_values"
        )
    return label.astype(np.uint8)


def _size_message(sample: Sample, label_height: int, label_width: int, height: int, width: int) -> str:
    message = (
        f"{sample.label}: label is {label_width}x{label_height}, its image {sample.image} {width}x{height}"
    )
    with Image.open(sample.image) as stored:
        turned = stored.getexif().get(ORIENTATION_TAG, 1) >= 5  # these swap height and width
    if turned and (label_height, label_width) == (width, height):
        message += "; the image's EXIF orientation turns it, so the label must be drawn for the upright image"
    return message


# --- samples for torch --------------------------------------------------------------------------------------


class TrainSamples(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Augmented crops. What item `index` is depends on (seed, epoch, index) alone: not on workers or processes.

    Item: image float32 (3, crop_height, crop_width) normalised, label int64 (crop_height, crop_width).
    mean, std: on 0..255, RGB. input_size: height and width that the model is served with; the crop's if left out.
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
        input_size: tuple[int, int] | None = None,
    ) -> None:
        self.dataset, self.seed, self.mean, self.std = dataset, seed, mean, std
        self.crop_height, self.crop_width, self.input_size = crop_height, crop_width, input_size
        self.augmentation = augmentation or transforms.Augmentation()
        # In shared memory, because workers that persist keep the copy of this object that they started with.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Call before each epoch's iteration starts; the crops of an epoch differ from those of the others."""
        self._epoch[0] = epoch

    @property
    def epoch(self) -> int:
        """The one that `set_epoch` named last, 0 before; in the workers too."""
        return int(self._epoch[0])

    def __len__(self) -> int:
        return len(self.dataset.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        photo, label = self.dataset.read(self.dataset.samples[index])
        rng = np.random.default_rng((self.seed, self.epoch, index))
        crop, crop_label = transforms.augment(
            rng,
            photo,
            label,
            self.crop_height,
            self.crop_width,
            self.augmentation,
            self.dataset.ignore_label,
            self.input_size,
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
        sample = self.dataset.samples[index]
        inputs, placed = read_input(sample.image, self.height, self.width)
        label = self.dataset.read_label(sample, placed.photo_height, placed.photo_width)
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
    # transposed as bytes, because that is 15 times cheaper than as floats
    image_chw = np.ascontiguousarray(image_hwc.transpose(2, 0, 1)).astype(np.float32)
    image_chw -= np.asarray(mean, np.float32).reshape(3, 1, 1)
    image_chw /= np.asarray(std, np.float32).reshape(3, 1, 1)
    return torch.from_numpy(image_chw)
