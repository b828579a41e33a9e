"""How many times as much: the ratio of a figure in two measurements, with an interval, and what it says.

    ratio = compared(a, b, confidence=each_confidence(0.99, figures=6))
    ratio.ratio, ratio.low, ratio.high
    verdict(ratio, "lower", tolerance=0.03)         # "worse", "better", "same" or "unclear"
    judge(Measured(0.0), Measured(70.0), "lower", 0.03, 0.99).verdict       # where there may be no ratio

`a` and `b` hold the figure in successive turns or slices that belong together in pairs: what both sides of a pair have
in common (how fast the machine was just then, how much load a scenario sent at that moment) cancels in their ratio.

- Turns that alternate give independent pairs, and a few of them are far off: something else had the machine for a
  second. So the ratio is the median of all pairs' and mean pairs' ratios, and its interval that of Wilcoxon's signed
  ranks (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963): exact for any noise that hits A and B alike,
  and not moved by some wild pairs. Below about 11 pairs six such intervals can't hold together with 99 %; then, and for
  slices of a run, the following counts instead.
- The ratio is the geometric mean of the pairs' ratios, so that B against A is one over A against B (it is above, too).
- Neighbours in time resemble each other. Where no order of turns has seen to that, the mean of each block of n^(1/3)
  neighbours counts as one value (non-overlapping blocks: Carlstein, Annals of Statistics 14, 1986; their length:
  Hall, Horowitz and Jing, Biometrika 82, 1995).
- The interval is the bootstrap's of the mean of the logarithms, in the form that is meant for few values: a plain
  percentile interval of a dozen values is too narrow, so percentiles further out are taken, those with which the
  interval of normal data would be Student's ("expanded percentile interval": Hesterberg, The American Statistician 69,
  2015). No resample's mean leaves the range of the values, however; so each end is at least Student's own.
- With several figures one of them would be off by chance soon. Šidák (Journal of the American Statistical Association
  62, 1967): with k figures each interval gets the confidence c^(1/k), so that all of them hold together with c.
- Worse is what is worse by more than the tolerance in the whole of its interval.
- Nothing that was measured goes unjudged for having no ratio: `judge` says what counts instead. A bare value of one
  run shows no chance that it could be weighed against, so only a difference beyond any doubt counts there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Better = Literal["lower", "higher"]
Verdict = Literal["worse", "better", "same", "unclear", "not compared"]
By = Literal["ratios", "differences", "ranges", "values", "gaps", "nothing"]
"""What a verdict rests on, see `judge`; gaps: what one side has nothing of; nothing: neither side has anything."""

RESAMPLES = 200_000
MIN_PAIRS = 5
"""With fewer an interval says nothing."""
BEYOND_DOUBT = 2.0
"""A bare value is worse from so many times A's on: the p99 of 75 latencies of the same server, lognormal with sigma
0.4, is by more in 1 of 3000 pairs of runs (by 1.5 in 1 of 60), and a folder has a dozen of such values."""
MANY_GAPS = 3
"""So many more empty slices than A has are no chance: a slow model answers so seldom that each of 12 slices may be
empty with 5 %; then B has one more in 29 % of all pairs of runs, two in 7 %, three in 1 %."""
SEED = 5


@dataclass(frozen=True)
class Ratio:
    """B's figure over A's, its interval, and how many independent values that rests on."""

    ratio: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Measured:
    """A figure of one side; NaN, for the value and for a sample, where nothing was measured.

    samples: in successive turns or slices, if any. ends: of the range that the value lies in, if it is known.
    scale: what the tolerance is a share of, where that is not the value. chance: by how much, besides, a bare value may
    differ from run to run. counted: of what should never happen, so that each one more is no chance.
    """

    value: float
    samples: Sequence[float] = ()
    ends: tuple[float, float] | None = None
    scale: float | None = None
    chance: float = 0.0
    counted: bool = False


@dataclass(frozen=True)
class Judgement:
    """What became of a figure, and by what; `ratio` only where it is by ratios."""

    verdict: Verdict
    by: By
    ratio: Ratio | None = None


def each_confidence(confidence: float, figures: int) -> float:
    """The confidence of each of `figures` intervals that hold together with `confidence` (Šidák)."""
    return float(confidence ** (1 / max(1, figures)))


def judge(
    a: Measured, b: Measured, better: Better, tolerance: float, confidence: float, independent: bool = False
) -> Judgement:
    """B against A, by the best there is: ratios of the samples; their differences, where one is 0; ranges; values.

    What B has nothing of is worse, as a whole or in `MANY_GAPS` slices more than A; in fewer it counts as 0, or not at
    all where it is not even 0. What never happened in A, such as a failure, is judged by the values.

    independent: as `compared` has it.
    """
    if math.isnan(a.value) and math.isnan(b.value):
        return Judgement("not compared", "nothing")
    if math.isnan(a.value):
        return Judgement("better", "gaps")
    same_length = len(a.samples) == len(b.samples)
    if math.isnan(b.value) or (
        same_length and _gaps(b.samples, better) - _gaps(a.samples, better) >= MANY_GAPS
    ):
        return Judgement("worse", "gaps")
    pairs = zip(a.samples, b.samples, strict=True) if same_length else ()
    there = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    of_a, of_b = [x for x, _ in there], [y for _, y in there]
    if found := compared(of_a, of_b, confidence, independent):
        return Judgement(verdict(found, better, tolerance), "ratios", found)
    allowed = tolerance * (abs(a.value) if a.scale is None else a.scale)
    if rise := _difference(of_a, of_b, confidence, independent):
        return Judgement(_risen(*rise, better, allowed), "differences")
    if a.ends and b.ends:
        return Judgement(_risen(b.ends[0] - a.ends[1], b.ends[1] - a.ends[0], better, allowed), "ranges")
    return Judgement(_bare(a, b, better, allowed), "values")


def compared(
    a: Sequence[float], b: Sequence[float], confidence: float, independent: bool = False
) -> Ratio | None:
    """The ratio of `b` to `a`, value by value.

    independent: the pairs do not depend on their neighbours (their order alternated); otherwise blocks are made.

    Returns: None where there is no such ratio: other numbers of values, fewer than `MIN_PAIRS` blocks of them, or one
    that is not a positive number.
    """
    if not MIN_PAIRS <= len(a) == len(b) or not all(math.isfinite(value) and value > 0 for value in (*a, *b)):
        return None
    logs = np.log(np.asarray(b, np.float64)) - np.log(np.asarray(a, np.float64))
    if not independent:
        logs = _block_means(logs)
    if len(logs) < MIN_PAIRS:
        return None
    found = _signed_ranks(logs, confidence) if independent else None
    middle, low, high = found or (float(logs.mean()), *_interval(logs, confidence))
    return Ratio(math.exp(middle), math.exp(low), math.exp(high), len(logs))


def verdict(ratio: Ratio, better: Better, tolerance: float) -> Verdict:
    """What the interval says of B.

    worse: all of it is worse by more than the tolerance; better: all of it is better by more than that; same: all of
    it is within the tolerance; unclear: it lies across a border, so more turns are needed to know.
    """
    low, high = (ratio.low, ratio.high) if better == "lower" else (1 / ratio.high, 1 / ratio.low)
    border = 1 + tolerance
    if low > border:
        return "worse"
    if high < 1 / border:
        return "better"
    return "same" if 1 / border <= low and high <= border else "unclear"


def _risen(least: float, most: float, better: Better, allowed: float) -> Verdict:
    """As `verdict`, of how much more B is than A, at least and at most, and how much of that may be."""
    low, high = (least, most) if better == "lower" else (-most, -least)
    if low > allowed:
        return "worse"
    if high < -allowed:
        return "better"
    return "same" if -allowed <= low and high <= allowed else "unclear"


def _bare(a: Measured, b: Measured, better: Better, allowed: float) -> Verdict:
    """Of values alone: beyond what is allowed it is unclear, unless no chance can have made so much."""
    rise = b.value - a.value
    if abs(rise) <= allowed:
        return "same"
    scale = abs(a.value) if a.scale is None else a.scale
    doubt = scale * (BEYOND_DOUBT - 1 if rise > 0 else 1 - 1 / BEYOND_DOUBT) + a.chance
    if not a.counted and abs(rise) < doubt:
        return "unclear"
    return "worse" if (rise > 0) == (better == "lower") else "better"


def _gaps(samples: Sequence[float], better: Better) -> int:
    """In how many there is nothing: no value, or none of what there should be much of."""
    return sum(not math.isfinite(value) or (better == "higher" and value == 0) for value in samples)


def _difference(
    a: Sequence[float], b: Sequence[float], confidence: float, independent: bool
) -> tuple[float, float] | None:
    """The interval of the mean of b - a; None where there are too few values, or A is always 0."""
    if not any(a):
        return None
    values = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    if not independent:
        values = _block_means(values)
    return _interval(values, confidence) if len(values) >= MIN_PAIRS else None


def _block_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is left over at the end joins the last block."""
    length = max(1, round(len(values) ** (1 / 3)))
    count = max(1, len(values) // length)
    borders = [block * length for block in range(1, count)]
    return np.array([part.mean() for part in np.split(values, borders)])


def _signed_ranks(values: NDArray[np.float64], confidence: float) -> tuple[float, float, float] | None:
    """Hodges and Lehmann's estimate and its interval; None where there are too few values for that confidence."""
    count = len(values)
    below = _signed_rank_chance(count)
    if below[0] > (1 - confidence) / 2:
        return None
    rows, columns = np.triu_indices(count)
    means = np.sort((values[rows] + values[columns]) / 2)  # Walsh's averages
    left_out = int(np.searchsorted(below, (1 - confidence) / 2, side="right")) - 1  # at each end
    return float(np.median(means)), float(means[left_out]), float(means[len(means) - 1 - left_out])


def _signed_rank_chance(count: int) -> NDArray[np.float64]:
    """Of each sum of positive ranks 0, 1, …: how probable it is that there are at most so much, if signs are chance."""
    ways = np.ones(1)
    for rank in range(1, count + 1):
        ways = np.concatenate([ways, np.zeros(rank)]) + np.concatenate([np.zeros(rank), ways])
    chance: NDArray[np.float64] = np.cumsum(ways) / 2**count
    return chance


def _interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Of the mean. Few values don't have percentiles as far out as they should be: then Student's end holds."""
    count, mean = len(values), float(values.mean())
    student = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    tail = float(stats.norm.cdf(-math.sqrt(count / (count - 1)) * student))
    drawn = np.random.default_rng(SEED).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    half = student * float(values.std(ddof=1)) / math.sqrt(count)
    return min(float(low), mean - half), max(float(high), mean + half)
