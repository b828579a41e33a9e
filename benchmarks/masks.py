"""Label maps at photo size: ours on one thread against torch's upsample + argmax on two, and what encoding them costs.

    python -m benchmarks.masks [--json] [PHOTO…]

Every map that is timed is compared with torch's, pixel by pixel. How fast ours is depends on the logits, on how many
cells of their grid a boundary runs through ("mixed"), so there are several kinds: "demo" is the demo model on a
rendered room, stretched to each size; "regions" has 20 and "patchwork" 60 regions of smooth logits with soft borders
and a little noise on a map of 60 x 60; "noise" is the worst case, where every class may win anywhere. Times are medians
in ms. Where full-resolution logits would take gigabytes, torch makes them in parts.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.nn import functional

from benchmarks import host
from segserve import encode
from segserve.cli import run
from segserve.errors import RequestError, UsageError
from segserve.geometry import Geometry
from segserve.labels import palette
from segserve.mask import label_map
from segserve.segmenter import Segmenter
from training.rooms import render
from training.torch_engine import checkpoint_segmenter

DEMO = host.REPOSITORY / "model_store" / "demo" / "rooms.safetensors"
SIZES = ((480, 640), (1080, 1920), (3000, 4000))
CLASSES = (11, 150)
MAP_SIDE = 60  # of PSPNet at stride 8, 473 or 480 pixels a side
SEED = 97_000_000
TORCH_THREADS = 2
TORCH_BYTES = 1_500_000_000  # full-resolution logits beyond this are made and compared in parts, by class
REPEATS, TORCH_REPEATS = 15, 3
LONG_MS = 1000.0  # torch is timed once where it takes longer

Logits = NDArray[np.float32] | NDArray[np.float16]
Labels = NDArray[np.uint8]
Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """Masks and their encoders, with torch's as the measure."""

    photos: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files whose masks by the demo model are made and encoded at their own size as well."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the report as JSON."""

    def __post_init__(self) -> None:
        if missing := [str(path) for path in self.photos if not path.is_file()]:
            raise UsageError(f"{', '.join(missing)}: no such file; give image files, or none")


def regions(num_classes: int, count: int, seed: int) -> NDArray[np.float32]:
    """Smooth fields for all classes, and `count` regions where one class is 8 higher, blurred over two cells."""
    rng = np.random.default_rng(seed)
    side = MAP_SIDE
    coarse = torch.from_numpy(rng.normal(size=(1, num_classes, 6, 6)).astype(np.float32))
    fields = functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)[0] * 2
    centres, classes = rng.random((count, 2)) * side, rng.integers(0, num_classes, count)
    y, x = np.mgrid[:side, :side]
    nearest = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(-1)
    raised = functional.one_hot(torch.from_numpy(classes[nearest]), num_classes).permute(2, 0, 1).float() * 8
    for _ in range(4):
        raised = functional.avg_pool2d(raised[None], 3, 1, 1, count_include_pad=False)[0] * 0.5 + raised * 0.5
    noise = torch.from_numpy(rng.normal(size=raised.shape).astype(np.float32)) * 0.3
    return np.ascontiguousarray((fields + raised + noise).numpy())


def cases(demo: Segmenter) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Kinds of logits, float32 (num_classes, h, w)."""
    room, _ = render(SEED, demo.spec.input.height, demo.spec.input.width)
    yield "demo", demo.engine(room[None])[0].astype(np.float32)
    for num_classes in CLASSES:
        yield "regions", regions(num_classes, 20, SEED)
        yield "patchwork", regions(num_classes, 60, SEED)
    yield "noise", np.random.default_rng(SEED).normal(size=(150, MAP_SIDE, MAP_SIDE)).astype(np.float32)


def torch_map(logits_chw: Logits, height: int, width: int, align_corners: bool) -> Labels:
    """Interpolate and argmax, in parts where the memory would not do. uint8 (height, width).

    `max`, because it gives the same indices as `argmax` and is faster: six times with 11 classes.
    """
    logits = torch.from_numpy(logits_chw).float()
    part = max(1, TORCH_BYTES // (4 * height * width))
    best, labels = None, None
    for start in range(0, len(logits), part):
        full = functional.interpolate(
            logits[None, start : start + part], (height, width), mode="bilinear", align_corners=align_corners
        )
        values, indices = full.max(1)
        if best is None or labels is None:
            best, labels = values, indices
            continue
        better = values > best
        best, labels = torch.where(better, values, best), torch.where(better, indices + start, labels)
    assert labels is not None
    return labels[0].to(torch.uint8).numpy()


def median_ms(work: Callable[[], object], repeats: int, warm_up: bool = True) -> float:
    if warm_up:
        work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - started))
    return statistics.median(taken)


def mixed(logits_chw: Logits) -> float:
    """Percentage of the grid's cells whose corners have different winners."""
    winner = logits_chw.argmax(0)
    same = (
        (winner[:-1, :-1] == winner[1:, :-1])
        & (winner[:-1, :-1] == winner[:-1, 1:])
        & (winner[:-1, :-1] == winner[1:, 1:])
    )
    return 100 * float(1 - same.mean())


def measure_mask(name: str, logits_chw: Logits, size: tuple[int, int], align_corners: bool) -> Row:
    """One row: torch's time, ours, and how many pixels differ."""
    geometry = Geometry(*size, *size, 0, 0, *size)
    started = time.perf_counter()
    expected = torch_map(logits_chw, *size, align_corners)
    first_ms = 1e3 * (time.perf_counter() - started)
    torch_ms = median_ms(
        lambda: torch_map(logits_chw, *size, align_corners),
        1 if first_ms > LONG_MS else TORCH_REPEATS, warm_up=False,
    )  # fmt: skip
    ours_ms = median_ms(lambda: label_map(logits_chw, geometry, align_corners), REPEATS)
    labels = label_map(logits_chw, geometry, align_corners)
    return {
        "logits": name, "classes": len(logits_chw), "type": str(logits_chw.dtype), "photo": f"{size[1]}x{size[0]}",
        "mixed_%": mixed(logits_chw), "torch_ms": torch_ms, "ours_ms": ours_ms, "ratio": torch_ms / ours_ms,
        "pixels_that_differ": int(np.count_nonzero(labels != expected)),
    }  # fmt: skip


def measure_encoders(
    name: str, make: Callable[[], Labels], photo_hwc: NDArray[np.uint8], colours: NDArray[np.uint8]
) -> Row:
    """One row: each answer format of one label map; `plain_png` is Pillow's PNG with its default settings."""
    labels = make()
    present = np.unique(labels).tolist()

    def plain_png() -> int:
        image = Image.fromarray(labels)
        image.putpalette(colours.tobytes())
        file = io.BytesIO()
        image.save(file, "PNG")
        return len(file.getvalue())

    row: Row = {"mask": name, "photo": f"{labels.shape[1]}x{labels.shape[0]}", "classes": len(present)}
    row["mask_ms"] = median_ms(make, REPEATS)
    row["png_ms"] = median_ms(lambda: encode.png(labels, colours), REPEATS)
    row["png_kB"] = len(encode.png(labels, colours)) / 1000
    row["plain_png_ms"], row["plain_png_kB"] = median_ms(plain_png, 3), plain_png() / 1000
    row["rle_ms"] = median_ms(lambda: encode.rles(labels, present), REPEATS)
    row["rle_kB"] = sum(len(one["counts"]) for one in encode.rles(labels, present)) / 1000
    row["npy_ms"] = median_ms(lambda: encode.npy(labels), REPEATS)
    row["overlay_ms"] = median_ms(lambda: encode.overlay_jpeg(photo_hwc, labels, colours), 5)
    row["overlay_kB"] = len(encode.overlay_jpeg(photo_hwc, labels, colours)) / 1000
    return row


def encoder_rows(
    kinds: list[tuple[str, NDArray[np.float32]]], demo: Segmenter, photos: tuple[Path, ...]
) -> list[Row]:
    """Of the kinds of logits at 1920x1080, and of photographs at their own size (and their own place in the input)."""
    rows = []
    for name, logits in kinds:
        if name == "noise":
            continue
        photo = np.random.default_rng(0).integers(0, 256, (135, 240, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        geometry = Geometry(1080, 1920, 1080, 1920, 0, 0, 1080, 1920)

        def make(logits: Logits = logits, geometry: Geometry = geometry) -> Labels:
            return label_map(logits, geometry, True)

        rows.append(measure_encoders(f"{name} {len(logits)}", make, photo, palette(len(logits))))
    for path in photos:
        try:
            prepared = demo.prepare(path.read_bytes(), with_photo=True)
        except RequestError as error:
            raise UsageError(f"{path}: {error}") from error
        logits = demo.logits([prepared])[0].astype(np.float32)
        assert prepared.photo is not None

        def make_photo(logits: Logits = logits, geometry: Geometry = prepared.geometry) -> Labels:
            return label_map(logits, geometry, demo.spec.align_corners)

        rows.append(measure_encoders(path.name, make_photo, prepared.photo, demo.spec.palette_rgb))
    return rows


def main(config: Config) -> None:
    torch.set_num_threads(TORCH_THREADS)
    demo = checkpoint_segmenter(DEMO)
    kinds = list(cases(demo))
    jobs: list[tuple[str, Logits, tuple[int, int]]] = [
        (name, typed, size)
        for name, logits in kinds
        for size in (SIZES if name != "noise" else SIZES[1:2])
        for typed in (logits, logits.astype(np.float16))
    ]
    progress = track(jobs, "masks", console=Console(stderr=True), transient=True)
    masks = [measure_mask(name, logits, size, demo.spec.align_corners) for name, logits, size in progress]
    encoders = encoder_rows(kinds, demo, config.photos)
    report = {**host.describe(), "torch_threads": TORCH_THREADS, "masks": masks, "encoders": encoders}
    if config.as_json:
        print(host.json_of(report, indent=2))
        return
    print(f"{host.headline(report)}\n\n{host.markdown(masks)}\n\n{host.markdown(encoders)}")


if __name__ == "__main__":
    run(Config, main)
