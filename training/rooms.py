"""Rendered rooms with exact labels: what the repository trains its demo model on and tests with.

No photograph that may be shipped comes with labels of walls, floors and furniture, so rooms are made: a random
room, furniture, light and camera for each seed, rendered to a picture and its label map.

    python -m training.rooms --out data/rooms --train 3000 --val 200 --seed 1

The folder holds train/, train_labels/, val/, val_labels/ and dataset.toml, which `training.data` reads.
"""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from segserve import cli
from segserve.errors import UsageError
from segserve.labels import IGNORE_LABEL, ROOM_CLASSES, palette
from training.prepare_options import require_empty
from training.rooms_shade import shade
from training.rooms_view import compose

Task = tuple[Path, str, int, int, int, int, bool]
Map = Callable[[Callable[[Task], None], Iterable[Task]], Iterable[None]]
JPEG_QUALITY = 92
SPLIT_SPAN = 10_000_000
"""Picture i of split s of seed n has the seed (2 n + s) * SPLIT_SPAN + i: no two splits share one."""


@dataclass(frozen=True)
class RoomsConfig:
    out: Path
    """Folder to write; made if missing, must be empty."""
    train: int = 3000
    """Pictures to train on."""
    val: int = 200
    """Pictures to evaluate on."""
    seed: int = 1
    """Another seed gives other rooms; the same seed gives the same bytes."""
    height: int = 360
    width: int = 480
    halls: bool = False
    """Large rooms instead: aisles between shelves, corridors, halls, also from low down."""
    workers: int = os.cpu_count() or 1
    """Processes that render; 1 renders in this one."""

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.seed) < 0 or max(self.train, self.val) >= SPLIT_SPAN:
            raise UsageError(
                f"--train, --val and --seed must be 0 … {SPLIT_SPAN - 1}, got {self.train}, {self.val}, {self.seed}"
            )
        if min(self.height, self.width) < 32 or self.workers < 1:
            raise UsageError(
                f"--height and --width must be at least 32, --workers at least 1, "
                f"got {self.height}, {self.width}, {self.workers}"
            )
        require_empty(self.out)


def render(
    seed: int, height: int, width: int, *, hall: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render the room of a seed, or the hall (training/rooms_hall.py).

    Returns: image uint8 (height, width, 3) RGB, anti-aliased; label uint8 (height, width), the index in
    `ROOM_CLASSES` of what is at each pixel's centre; every pixel has one.
    """
    scene = compose(seed, height, width, hall=hall)
    light, label = shade(scene.triangles, scene.materials, scene.camera, scene.light, height, width)
    return photograph(light, np.random.default_rng([seed, 11])), label


def photograph(light: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a camera makes of linear light: exposure, white balance, vignette, tone curve, blur, noise, JPEG.

    light: float32 (H, W, 3). Returns: uint8 (H, W, 3).
    """
    height, width, _ = light.shape
    # expose for the mean of the logarithm, so that a bright window does not darken the room altogether
    luminance = light[::3, ::3] @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    key = float(np.exp(np.log(luminance + 1e-3).mean()))
    image = light * np.float32(rng.uniform(0.14, 0.42) / key * rng.choice([1, 1, 1, 1, 1.6, 0.5]))
    warmth = rng.normal(0, 0.13)
    image *= np.array([1 + warmth, 1 + rng.normal(0, 0.025), 1 - warmth], np.float32)
    y, x = (
        np.linspace(-1, 1, height, dtype=np.float32)[:, None],
        np.linspace(-1, 1, width, dtype=np.float32)[None],
    )
    image *= (1 - np.float32(rng.uniform(0, 0.25)) * (x * x + y * y))[..., None]
    np.maximum(image, 0, out=image)
    shoulder = np.float32(rng.uniform(0.1, 0.6))
    image = image * (1 + shoulder * image / 4) / (1 + shoulder * image)
    sigma = rng.uniform(0.002, 0.02) if rng.random() < 0.7 else rng.uniform(0.02, 0.05)
    image += rng.standard_normal(image.shape, np.float32) * np.float32(sigma * 0.35) * np.sqrt(image + 0.02)
    image = np.clip(image, 0, 1) ** np.float32(1 / rng.uniform(1.9, 2.4))
    grey = image.mean(2, keepdims=True)
    image = grey + (image - grey) * np.float32(rng.uniform(0.7, 1.2))
    picture = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.3)) * width / 480))
    if rng.random() < 0.6:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(rng.integers(45, 95)))
        picture = Image.open(buffer)
    return np.asarray(picture, np.uint8).copy()


def seed_of(seed: int, split: str, index: int) -> int:
    return (2 * seed + ("train", "val").index(split)) * SPLIT_SPAN + index


def _write(task: Task) -> None:
    out, split, index, seed, height, width, halls = task
    image, label = render(seed_of(seed, split, index), height, width, hall=halls)
    Image.fromarray(image).save(out / split / f"{index:06d}.jpg", quality=JPEG_QUALITY, subsampling=0)
    labels = Image.fromarray(label)
    labels.putpalette(palette(len(ROOM_CLASSES)).tobytes())
    labels.save(out / f"{split}_labels" / f"{index:06d}.png")


def description(config: RoomsConfig) -> str:
    """The text of dataset.toml."""
    names = ", ".join(f'"{name}"' for name in ROOM_CLASSES)
    lines = [f'name = "rooms"\nclasses = [{names}]\nignore_label = {IGNORE_LABEL}\n']
    lines += [f'[splits.{s}]\nimages = "{s}"\nlabels = "{s}_labels"\n' for s in ("train", "val")]
    what = "halls" if config.halls else "rooms"
    return f"# rendered {what}: seed {config.seed}, {config.height} x {config.width}\n" + "\n".join(lines)


@contextmanager
def _mapper(workers: int) -> Iterator[Map]:
    if workers == 1:
        yield map
        return
    render(0, 32, 32)  # compiles once, before the workers would all do so at the same time
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield lambda function, tasks: pool.imap_unordered(function, tasks, chunksize=4)


def main(config: RoomsConfig) -> int:
    from rich.progress import track

    counts = {"train": config.train, "val": config.val}
    for split in counts:
        for folder in (split, f"{split}_labels"):
            (config.out / folder).mkdir(parents=True, exist_ok=True)
    tasks = [
        (config.out, split, index, config.seed, config.height, config.width, config.halls)
        for split, count in counts.items()
        for index in range(count)
    ]
    with _mapper(config.workers) as mapper:
        for _ in track(mapper(_write, tasks), "rendering rooms", len(tasks)):
            pass
    (config.out / "dataset.toml").write_text(description(config))
    print(f"{config.out}: {config.train} to train on, {config.val} to evaluate on")
    return 0


if __name__ == "__main__":
    cli.run(RoomsConfig, main)
