"""Turns of two servers on one machine, made up."""

from __future__ import annotations

import numpy as np


def drifting(seed: int, factor: float, count: int = 20) -> tuple[list[float], list[float]]:
    """Two servers on a machine that gets half as fast, with 5 % of noise; the second takes `factor` times as long."""
    noise = np.random.default_rng(seed)
    machine = np.linspace(1, 2, 2 * count)
    times = 70 * machine * np.exp(noise.normal(0, 0.05, 2 * count))
    first, second = times[0::2].copy(), times[1::2].copy()
    first[1::2], second[1::2] = times[3::4], times[2::4]  # A B, B A, A B, …
    return first.tolist(), (second * factor).tolist()
