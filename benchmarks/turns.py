"""One short turn of load on a server, and two servers that take such turns.

    with serving(a, ...) as first, serving(b, ...) as second:
        samples, masks = alternate([first, second], photos, pairs=12, clients=8)

Machines are not as fast at one time as at another, and two measurements one after the other differ by that alone. So
both servers are up all the time, and only one has load: A B, B A, A B, … Both turns of a pair meet the same machine,
and what gets steadily faster or slower favours A in one pair and B in the next. A turn is not a time but a round of
photos, the same in each.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.client import Load, drive
from benchmarks.mar_server import MarServer
from benchmarks.photos import Photo
from benchmarks.ratio import Better
from benchmarks.served import failures_of, requests_of, steps_ms
from segserve.errors import CheckFailed

FIGURES: dict[str, tuple[str, Better]] = {
    "images/s": ("/s", "higher"),
    "p95, loaded": ("ms", "lower"),
    "p50, one client": ("ms", "lower"),
    "engine": ("ms", "lower"),
    "decode": ("ms", "lower"),
    "mask and encode": ("ms", "lower"),
}
"""What a turn gives: unit, and which way is better. The last three are medians of the server's steps, one client."""
ROUNDS_LOADED = 2

Sample = dict[str, float]


def turn(server: MarServer, photos: Sequence[Photo], clients: int) -> Sample:
    """Each photo once from one client, then twice from `clients` at once.

    Returns: a value for each of `FIGURES`. Raises: CheckFailed if a request was not answered with a mask.
    """
    requests = requests_of(server.url, photos)
    lone = _whole(drive(server.url, requests, 1, 0.0, min_answers=len(requests)))
    loaded = _whole(drive(server.url, requests, clients, 0.0, min_answers=ROUNDS_LOADED * len(requests)))
    steps = steps_ms(lone)
    return {
        "images/s": loaded.images_per_s,
        "p95, loaded": loaded.latency_ms(95),
        "p50, one client": lone.latency_ms(50),
        "engine": steps["engine"],
        "decode": steps["decode"],
        "mask and encode": steps["mask"] + steps["encode"],
    }


def warm_up(server: MarServer, photos: Sequence[Photo], clients: int) -> list[NDArray[np.uint8]]:
    """What is first is slow: batches of every size, and the mask of each photo, uint8 (height, width)."""
    requests = requests_of(server.url, photos)
    first = _whole(drive(server.url, requests, 1, 0.0, min_answers=len(requests), keep_bodies=1))
    turn(server, photos, clients)
    masks = {}
    for answer in first.good:
        if answer.body is not None:
            with Image.open(io.BytesIO(answer.body)) as image:
                masks[answer.request] = np.asarray(image, np.uint8)
    return [masks[number] for number in range(len(requests))]


def alternate(
    servers: tuple[MarServer, MarServer], photos: Sequence[Photo], pairs: int, clients: int
) -> tuple[list[Sample], list[Sample]]:
    """A B, B A, A B, … after a warm-up. Returns: the turns of the first server and of the second, pair by pair."""
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for pair in track(range(pairs), "pairs of turns", console=Console(stderr=True), transient=True):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            samples[side].append(turn(servers[side], photos, clients))
    return samples


def agreement(a: Sequence[NDArray[np.uint8]], b: Sequence[NDArray[np.uint8]]) -> list[float]:
    """Share of equal pixels, photo by photo; 0 where sizes differ."""
    return [float((x == y).mean()) if x.shape == y.shape else 0.0 for x, y in zip(a, b, strict=True)]


def mean(values: Sequence[float]) -> float:
    """Geometric, as ratios are; arithmetic where one is 0, which has none; NaN if one is."""
    return statistics.fmean(values) if 0 in values else statistics.geometric_mean(values)


def _whole(load: Load) -> Load:
    if failures := failures_of(load):
        raise CheckFailed(f"{len(failures)} of {len(load.answers)} requests failed, the first: {failures[0]}")
    return load
