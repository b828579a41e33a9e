"""What it costs to make a network input of a photo, the plain way and ours, and what the difference does to labels.

    python -m benchmarks.decode [--json] [PHOTO…]

Plain: decode all pixels, turn them upright, copy them into an array, resize that. Ours (`segserve.image.read` and
`segserve.resize`): decode a large JPEG at a half, a quarter or an eighth, resize what Pillow holds, turn the result.
Times are medians of one thread, in ms, the two ways in turn. `labels_agree_%` compares the demo model's labels at the
photo's own size; `last_bit_%` does so for the plain input with random last bits, as many as the reduced input has.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from benchmarks.photos import photo
from segserve.cli import run
from segserve.errors import RequestError, UsageError
from segserve.geometry import Geometry
from segserve.image import decode, read
from segserve.mask import label_map
from segserve.resize import PAD_VALUE, to_input
from segserve.segmenter import Segmenter
from training.torch_engine import checkpoint_segmenter

DEMO = host.REPOSITORY / "model_store" / "demo" / "rooms.safetensors"
INPUT_SIZES = ((480, 480), (240, 320))
SEED = 96_000_000
RENDERED_SIZES = ((480, 640), (960, 1280), (1536, 2048))  # height, width: 0.3, 1.2, 3.1 megapixels
PHONE_SIZE = (3000, 4000)
SENSOR_NOISE = 4.0  # standard deviation in levels: the phone's photo takes the 3 to 4 MB that such files do
MAX_REPEATS = 25


@dataclass(frozen=True)
class Config:
    """Decode and resize on one thread: the plain way against ours."""

    photos: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files; rendered rooms of 0.3 to 12 megapixels if there are none."""
    seconds: float = 1.5
    """Of measuring each row."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the report as JSON."""

    def __post_init__(self) -> None:
        if missing := [str(path) for path in self.photos if not path.is_file()]:
            raise UsageError(
                f"{', '.join(missing)}: no such file; give image files, or none for rendered rooms"
            )
        if not self.seconds > 0:
            raise UsageError(f"--seconds is {self.seconds}, expected more than 0")


def plain(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The network input as anybody would make it: uint8 (height, width, 3)."""
    upright = decode(data)
    placed = Geometry.letterbox(upright.shape[0], upright.shape[1], height, width)
    size = (placed.content_width, placed.content_height)
    content = np.asarray(Image.fromarray(upright).resize(size, Image.Resampling.BILINEAR))
    padded = np.full((height, width, 3), PAD_VALUE, np.uint8)
    bottom, right = placed.top + placed.content_height, placed.left + placed.content_width
    padded[placed.top : bottom, placed.left : right] = content
    return padded


def measure(data: bytes, height: int, width: int, seconds: float) -> dict[str, float]:
    """Medians in ms of the plain way, of ours, and of ours' two parts; each warmed up, taking turns."""
    ways: dict[str, Callable[[], object]] = {
        "plain_ms": lambda: plain(data, height, width),
        "ours_ms": lambda: to_input(read(data, input_size=(height, width)), height, width),
        "decode_ms": lambda: read(data, input_size=(height, width)),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    until = time.perf_counter() + seconds
    for _ in range(MAX_REPEATS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            taken[name].append(1e3 * (time.perf_counter() - started))
        if time.perf_counter() > until:
            break
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return medians | {"ratio": medians["plain_ms"] / medians["ours_ms"]}


def agreement(data: bytes, height: int, width: int, demo: Segmenter) -> dict[str, float]:
    """Percentages of equal labels, ours against plain and plain against plain with random last bits."""
    ours, placed = to_input(read(data, input_size=(height, width)), height, width)
    whole = plain(data, height, width)
    difference = float(np.abs(ours.astype(np.int16) - whole).mean())
    rng = np.random.default_rng(0)
    changed = rng.random(whole.shape) < difference
    noisy = np.clip(whole + changed * rng.choice([-1, 1], whole.shape), 0, 255).astype(np.uint8)
    labels = [
        label_map(demo.engine(image[None])[0], placed, demo.spec.align_corners)
        for image in (whole, ours, noisy)
    ]
    agreeing = [100 * float(np.mean(labels[0] == other)) for other in labels[1:]]
    return {"input_difference": difference, "labels_agree_%": agreeing[0], "last_bit_%": agreeing[1]}


def thread_speedup(data: bytes, threads: int, count: int = 12) -> float:
    """How many times faster `threads` threads make inputs than one: near `threads` if decoders drop Python's lock."""

    def work(_: int) -> object:
        return to_input(read(data, input_size=INPUT_SIZES[0]), *INPUT_SIZES[0])

    taken = []
    for workers in (1, threads):
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(threads)))
            started = time.perf_counter()
            list(pool.map(work, range(count * threads)))
            taken.append(time.perf_counter() - started)
    return taken[0] / taken[1]


def phone_photo(seed: int) -> bytes:
    """Twelve megapixels: a room rendered at half the size and enlarged, with the noise of a sensor."""
    height, width = PHONE_SIZE
    half = Image.open(io.BytesIO(photo(seed, height // 2, width // 2).jpeg))
    pixels = np.asarray(half.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(seed).standard_normal((height, width, 1), np.float32)
    file = io.BytesIO()
    noisy = np.clip(pixels + SENSOR_NOISE * noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file, "JPEG", quality=92)
    return file.getvalue()


def rendered() -> list[tuple[str, bytes]]:
    """Rooms as JPEG files, 0.3 to 12 megapixels, by their width x height."""
    sizes = track(RENDERED_SIZES, "rendering", console=Console(stderr=True), transient=True)
    photos = [photo(SEED + number, *size) for number, size in enumerate(sizes)]
    height, width = PHONE_SIZE
    return [*((made.name, made.jpeg) for made in photos), (f"{width}x{height}", phone_photo(SEED))]


def compare(
    name: str, data: bytes, height: int, width: int, demo: Segmenter, seconds: float
) -> dict[str, Any]:
    """One row of the table. Raises UsageError for a file that is no image."""
    try:
        seen = read(data, input_size=(height, width))
    except RequestError as error:
        raise UsageError(f"{name}: {error}") from error
    return {
        "photo": name,
        "MP": round(seen.height * seen.width / 1e6, 2),
        "kB": len(data) // 1000,
        "input": f"{height}x{width}",
        "decoded_at": f"1/{seen.reduced}",
        **measure(data, height, width, seconds),
        **agreement(data, height, width, demo),
    }


def main(config: Config) -> None:
    photos = [(path.name, path.read_bytes()) for path in config.photos] or rendered()
    demo = checkpoint_segmenter(DEMO)
    jobs = [(name, data, size) for name, data in photos for size in INPUT_SIZES]
    progress = track(jobs, "measuring", console=Console(stderr=True), transient=True)
    rows = [compare(name, data, *size, demo, config.seconds) for name, data, size in progress]
    about = host.describe()
    cores = about["cores"]
    speedup = thread_speedup(max((data for _, data in photos), key=len), cores)
    report = {**about, "rows": rows, "side_by_side": {"threads": cores, "times_one_thread": speedup}}
    if config.as_json:
        print(host.json_of(report, indent=2))
        return
    print(host.headline(report))
    print(_table(rows))
    print(f"\n{cores} threads make inputs of the largest {speedup:.2f} times as fast as one.")


def _table(rows: Sequence[dict[str, Any]]) -> str:
    return host.markdown([{key: _short(key, value) for key, value in row.items()} for row in rows])


def _short(key: str, value: object) -> object:
    return f"{value:.2f}" if isinstance(value, float) and key != "MP" else value


if __name__ == "__main__":
    run(Config, main)
