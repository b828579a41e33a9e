"""The highest rate at which objectives hold, from trials at several rates: where to try next, and the number.

margin(objectives, rows) -> 0.8 where the objective that is closest to being missed has 20 % to spare
knee([Trial(10.0, …), …], objectives) -> Knee(rate_per_s=12.3, low=11.9, high=12.6)

Held or missed is little to learn from a trial. How far it was from its limit says more: of the trials' margins the
logarithm is fitted with the closest curve that never falls (isotonic regression: Barlow and others, "Statistical
Inference under Order Restrictions", 1972), and where that crosses 0 is the knee. The interval is a bootstrap's: the
trials between the lowest and the highest rate are drawn with replacement, and within each the answers, in blocks of
seconds, because neighbours waited in one queue (Künsch, Annals of Statistics 17, 1989). 95 % of what comes out is
between `low` and `high`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from benchmarks.answers import Answered, failure_share, percentiles_ms
from benchmarks.slo import Objective

LARGEST_MARGIN = 10.0
"""A server far beyond its limits is as good as one ten times beyond."""
BLOCKS = 8
RESAMPLES = 200
SEED = 11


@dataclass(frozen=True)
class Trial:
    """Requests a second, and what came back in so many seconds."""

    rate_per_s: float
    rows: tuple[Answered, ...]
    seconds: float


@dataclass(frozen=True)
class Knee:
    """The highest rate, requests a second, and its interval of 95 %."""

    rate_per_s: float
    low: float
    high: float


def margin(objectives: Sequence[Objective], rows: Sequence[Answered]) -> float:
    """Largest of got over allowed, over all limits; up to 1 all hold. From 1 / LARGEST_MARGIN to LARGEST_MARGIN.

    Of a floor (slo.refuse_floors) nothing is asked here.
    """
    worst = 1 / LARGEST_MARGIN
    for objective in objectives:
        mine = [row for row in rows if objective.fits(row)]
        if not mine:
            return LARGEST_MARGIN
        for name, got_ms in percentiles_ms(mine).items():
            worst = max(worst, _over(got_ms, getattr(objective, f"{name}_ms")))
        worst = max(worst, _over(failure_share(mine), objective.failures))
    return min(worst, LARGEST_MARGIN)


def _over(got: float, allowed: float | None) -> float:
    if allowed is None:
        return 0.0
    if math.isnan(got):
        return LARGEST_MARGIN
    return (0.0 if got <= 0 else LARGEST_MARGIN) if allowed <= 0 else got / allowed


def crossing(rates: Sequence[float], margins: Sequence[float]) -> float:
    """Where the fitted margin reaches 1. All held: the highest rate; none did: 0."""
    order = np.argsort(rates, kind="stable")
    x = np.asarray(rates, np.float64)[order]
    y = isotonic_regression(np.log(np.asarray(margins, np.float64)[order])).x
    if y[0] > 0:
        return 0.0
    if y[-1] <= 0:
        return float(x[-1])
    above = int(np.argmax(y > 0))
    below = above - 1
    return float(x[below] + (x[above] - x[below]) * -y[below] / (y[above] - y[below]))


def knee(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Knee:
    """From all trials. The interval rests on as much chance as the trials showed, not on that between days."""
    rates = [trial.rate_per_s for trial in trials]
    found = crossing(rates, [margin(objectives, trial.rows) for trial in trials])
    chance = random.Random(SEED)
    # margins of resampled answers are made once a trial and drawn from: the same bootstrap at a tenth of the time
    pools = [
        [margin(objectives, _resampled(trial, chance)) for _ in range(RESAMPLES // 5)] for trial in trials
    ]
    # the ends of the range are in every draw: without a rate that held there would be nothing to cross from
    ends = sorted(range(len(trials)), key=rates.__getitem__)[:: max(1, len(trials) - 1)]
    drawn = []
    for _ in range(RESAMPLES):
        numbers = [*ends, *(chance.randrange(len(trials)) for _ in trials[len(ends) :])]
        rates_drawn = [rates[n] for n in numbers]
        drawn.append(crossing(rates_drawn, [chance.choice(pools[n]) for n in numbers]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Knee(found, min(found, float(low)), max(found, float(high)))


def _resampled(trial: Trial, chance: random.Random) -> list[Answered]:
    began = min(row.due for row in trial.rows)
    length_s = (max(row.due for row in trial.rows) - began) / BLOCKS or 1.0
    blocks: list[list[Answered]] = [[] for _ in range(BLOCKS)]
    for row in trial.rows:
        blocks[min(BLOCKS - 1, int((row.due - began) / length_s))].append(row)
    return [row for _ in range(BLOCKS) for row in blocks[chance.randrange(BLOCKS)]] or list(trial.rows)
