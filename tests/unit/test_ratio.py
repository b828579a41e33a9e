"""Ratios with their intervals, and what they say of two measurements that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import ratio
from benchmarks.ratio import Better, Ratio
from tests.turns import drifting


def test_the_same_is_never_called_worse_and_a_fifth_slower_always() -> None:
    each = ratio.each_confidence(0.99, 6)
    for seed in range(10):
        same = ratio.compared(*drifting(seed, 1.0), each, independent=True)
        slow = ratio.compared(*drifting(seed, 1.2), each, independent=True)
        assert same is not None
        assert slow is not None
        assert ratio.verdict(same, "lower", 0.03) in ("same", "unclear")
        assert ratio.verdict(slow, "lower", 0.03) == "worse"
        assert same.low < 1 < same.high
        assert slow.low < 1.2 < slow.high


def test_the_interval_holds_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratio, "RESAMPLES", 2000)
    noise, missed = np.random.default_rng(3), 0
    for _ in range(300):
        found = ratio.compared([1.0] * 8, np.exp(noise.normal(0, 0.1, 8)).tolist(), 0.9, independent=True)
        assert found is not None
        missed += not found.low <= 1 <= found.high
    assert 15 <= missed <= 50  # 30 are expected


def test_few_values_that_all_lie_on_one_side_by_chance_prove_nothing() -> None:
    """Five fair coins show the same side once in 16 times."""
    found = ratio.compared([1.0] * 5, [1.1, 1.5, 1.3, 1.2, 1.8], 0.999, independent=True)
    assert found is not None
    assert found.low < 1


def test_b_against_a_is_one_over_a_against_b() -> None:
    a, b = drifting(1, 1.1)
    forth, back = ratio.compared(a, b, 0.95), ratio.compared(b, a, 0.95)
    assert forth is not None
    assert back is not None
    assert forth.ratio == pytest.approx(1 / back.ratio)
    assert forth.low == pytest.approx(1 / back.high, rel=0.01)


def test_neighbours_that_resemble_each_other_count_as_one_value() -> None:
    a, waves = [1.0] * 24, np.exp(0.1 * np.sin(np.arange(24) / 2)).tolist()
    alone, blocks = ratio.compared(a, waves, 0.95, independent=True), ratio.compared(a, waves, 0.95)
    assert alone is not None
    assert blocks is not None
    assert (alone.pairs, blocks.pairs) == (24, 8)
    assert blocks.high - blocks.low > alone.high - alone.low


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0] * 10, [1.0] * 9),
        ([1.0] * 4, [1.0] * 4),
        ([1.0] * 9 + [0.0], [1.0] * 10),
        ([1.0] * 10, [1.0] * 9 + [float("nan")]),
    ],
)
def test_what_has_no_ratio_gets_none(a: list[float], b: list[float]) -> None:
    assert ratio.compared(a, b, 0.95, independent=True) is None


def test_several_intervals_hold_together_only_if_each_is_wider() -> None:
    assert ratio.each_confidence(0.95, 1) == pytest.approx(0.95)
    assert ratio.each_confidence(0.95, 6) ** 6 == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (1.06, 1.3, "lower", "worse"),
        (1.04, 1.3, "lower", "unclear"),
        (0.96, 1.04, "lower", "same"),
        (0.8, 0.9, "lower", "better"),
        (0.8, 0.9, "higher", "worse"),
        (1.06, 1.3, "higher", "better"),
    ],
)
def test_worse_is_worse_in_the_whole_interval(low: float, high: float, better: Better, expected: str) -> None:
    assert ratio.verdict(Ratio(1.0, low, high, 10), better, 0.05) == expected


def test_some_wild_pairs_do_not_hide_a_slower_version() -> None:
    """Something else had the machine in three turns of 24: once A's, twice B's."""
    a, b = [1.0] * 24, [1.2 * (1 + 0.01 * (turn % 5 - 2)) for turn in range(24)]
    b[3], b[11], b[20] = 0.6, 2.1, 2.4
    each = ratio.each_confidence(0.99, 6)
    found = ratio.compared(a, b, each, independent=True)
    assert found is not None
    assert found.ratio == pytest.approx(1.2, rel=0.02)
    assert ratio.verdict(found, "lower", 0.03) == "worse"
    assert found.low == pytest.approx(1.2, rel=0.1)


def test_the_interval_of_signed_ranks_is_that_of_the_tables() -> None:
    """Of 12 values' 78 pairwise means, 13 are left out at each end: P(W <= 13) = 0.0212, P(W <= 14) = 0.0261."""
    values = np.random.default_rng(8).normal(0, 1, 12)
    means = sorted((x + y) / 2 for i, x in enumerate(values) for y in values[i:])
    found = ratio.compared([1.0] * 12, np.exp(values).tolist(), 0.95, independent=True)
    assert found is not None
    assert found.low == pytest.approx(np.exp(means[13]))
    assert found.high == pytest.approx(np.exp(means[-14]))
    assert found.ratio == pytest.approx(np.exp(np.median(means)))
