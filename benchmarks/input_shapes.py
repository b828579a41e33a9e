"""Photos of several shapes through one input shape or a few: how well they are segmented, how much of it is grey.

    python -m benchmarks.input_shapes [CHECKPOINT] [--rooms 40] [--json]

`letterbox` is what is served. `stretch` fills the input with the photo, out of proportion. `3 shapes` and `5 shapes`
have inputs of about as many pixels as the model's own: 3:4, 1:1 and 4:3, then 9:16 and 16:9 as well; each photo goes
to the nearest and is stretched the little that remains. Rooms are rendered with exact labels, as many for each shape
of photo, and counted at their own size; columns are mIoU in %, `mean` that of the columns. A batch has one input
shape: with more of them, a batch of mixed photos becomes several calls of the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks import host
from benchmarks.decode import DEMO
from segserve.cli import run
from segserve.errors import UsageError
from segserve.geometry import Geometry
from segserve.labels import ROOM_CLASSES
from segserve.mask import label_map
from segserve.resize import PAD_VALUE
from segserve.segmenter import Segmenter
from training.metrics import ConfusionMatrix
from training.rooms import render
from training.torch_engine import checkpoint_segmenter

PHOTO_SHAPES = {
    "4:3": (480, 640),
    "3:4": (640, 480),
    "16:9": (480, 852),
    "9:16": (852, 480),
    "1:1": (512, 512),
    "2:1": (400, 800),
}
"""Width:height -> height, width of the rendered photos."""
FIRST_SEED = 97_000_000
STRIDE = 8

Policy = Callable[[int, int], Geometry]


@dataclass(frozen=True)
class Config:
    """Letterbox, stretch or a few input shapes: accuracy on rendered rooms of several shapes."""

    checkpoint: tyro.conf.Positional[Path] = DEMO
    """Trained on rooms (`training.rooms`)."""
    rooms: int = 16
    """To render for each shape of photo."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the report as JSON."""

    def __post_init__(self) -> None:
        if self.rooms < 1:
            raise UsageError(f"--rooms is {self.rooms}, expected at least 1")


def policies(height: int, width: int) -> dict[str, Policy]:
    """By name: upright photo height and width -> how it lies in which input, for a model of that input size."""
    three = [_input_shape(height * width, aspect) for aspect in (3 / 4, 1, 4 / 3)]
    five = [*three, *(_input_shape(height * width, aspect) for aspect in (9 / 16, 16 / 9))]
    return {
        "letterbox": lambda h, w: Geometry.letterbox(h, w, height, width),
        "stretch": lambda h, w: _stretch(h, w, [(height, width)]),
        "3 shapes": lambda h, w: _stretch(h, w, three),
        "5 shapes": lambda h, w: _stretch(h, w, five),
    }


def _input_shape(pixels: int, aspect: float) -> tuple[int, int]:
    """Height and width, multiples of the network's stride, of about that many pixels; aspect is height / width."""
    height, width = math.sqrt(pixels * aspect), math.sqrt(pixels / aspect)
    return STRIDE * round(height / STRIDE), STRIDE * round(width / STRIDE)


def _stretch(photo_height: int, photo_width: int, shapes: list[tuple[int, int]]) -> Geometry:
    """Filling that of the input shapes whose proportions are nearest."""
    wanted = math.log(photo_height / photo_width)
    height, width = min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1]) - wanted))
    return Geometry(photo_height, photo_width, height, width, 0, 0, height, width)


def place(photo_hwc: NDArray[np.uint8], placed: Geometry) -> NDArray[np.uint8]:
    """The network input uint8 (input_height, input_width, 3)."""
    size = (placed.content_width, placed.content_height)
    input_hwc = np.full((placed.input_height, placed.input_width, 3), PAD_VALUE, np.uint8)
    bottom, right = placed.top + placed.content_height, placed.left + placed.content_width
    content = np.asarray(Image.fromarray(photo_hwc).resize(size, Image.Resampling.BILINEAR))
    input_hwc[placed.top : bottom, placed.left : right] = content
    return input_hwc


def measure(segmenter: Segmenter, rooms: int) -> list[dict[str, Any]]:
    """One row for each policy."""
    size = segmenter.spec.input
    ways = policies(size.height, size.width)
    counts = {(way, shape): ConfusionMatrix(len(ROOM_CLASSES)) for way in ways for shape in PHOTO_SHAPES}
    jobs = [(shape, number) for shape in PHOTO_SHAPES for number in range(rooms)]
    for shape, number in track(jobs, "segmenting", console=Console(stderr=True), transient=True):
        photo, label = render(FIRST_SEED + number, *PHOTO_SHAPES[shape])
        for way, policy in ways.items():
            placed = policy(*PHOTO_SHAPES[shape])
            logits = segmenter.engine(place(photo, placed)[None])[0]
            counts[way, shape].update(label, label_map(logits, placed, segmenter.spec.align_corners))
    return [_row(way, policy, counts, size.height * size.width) for way, policy in ways.items()]


def _row(
    way: str, policy: Policy, counts: Mapping[tuple[str, str], ConfusionMatrix], pixels: int
) -> dict[str, Any]:
    """input_shapes: how many the photos went to; grey_%: mean share of bars; pixels: mean, the model's own being 1."""
    placed = [policy(*shape) for shape in PHOTO_SHAPES.values()]
    miou = {shape: 100 * counts[way, shape].scores().miou for shape in PHOTO_SHAPES}
    inputs = [item.input_height * item.input_width for item in placed]
    shown = [item.content_height * item.content_width for item in placed]
    grey = [1 - content / whole for content, whole in zip(shown, inputs, strict=True)]
    return {
        "policy": way,
        **{shape: round(value, 1) for shape, value in miou.items()},
        "mean": round(float(np.mean(list(miou.values()))), 1),
        "grey_%": round(100 * float(np.mean(grey)), 1),
        "pixels": round(float(np.mean(inputs)) / pixels, 2),
        "input_shapes": len({(item.input_height, item.input_width) for item in placed}),
    }


def main(config: Config) -> None:
    segmenter = checkpoint_segmenter(config.checkpoint)
    if segmenter.spec.classes != ROOM_CLASSES:
        raise UsageError(
            f"{config.checkpoint} has the classes {', '.join(segmenter.spec.classes)}; rendered rooms have "
            f"{', '.join(ROOM_CLASSES)}: give a checkpoint that was trained on them"
        )
    size = segmenter.spec.input
    report = {
        **host.describe(),
        "checkpoint": config.checkpoint.name,
        "input": f"{size.height}x{size.width}",
        "rooms_per_shape": config.rooms,
        "rows": measure(segmenter, config.rooms),
    }
    if config.as_json:
        print(host.json_of(report, indent=2))
        return
    print(f"{report['checkpoint']}, input {report['input']}, {config.rooms} rooms for each shape of photo")
    print(host.markdown(report["rows"]))


if __name__ == "__main__":
    run(Config, main)
