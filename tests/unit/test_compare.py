"""What `benchmarks.compare` concludes from figures, and `benchmarks.regress` from kept ratios; no server here."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare, ratio, regress, turns
from benchmarks.ratio import Better, Ratio
from segserve.cli import run
from segserve.errors import UsageError


def drifting(seed: int, factor: float, count: int = 20) -> tuple[list[float], list[float]]:
    """Two servers on a machine that gets half as fast, with 5 % of noise; the second takes `factor` times as long."""
    noise = np.random.default_rng(seed)
    machine = np.linspace(1, 2, 2 * count)
    times = 70 * machine * np.exp(noise.normal(0, 0.05, 2 * count))
    first, second = times[0::2].copy(), times[1::2].copy()
    first[1::2], second[1::2] = times[3::4], times[2::4]  # A B, B A, A B, …
    return first.tolist(), (second * factor).tolist()


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


def folder(path: Path, p50_ms: Sequence[float | None], per_s: Sequence[float], **changed: Any) -> Path:
    """A result folder as benchmarks.run writes it."""
    path.mkdir()
    figures = {
        "p50": {"value": 70.0, "unit": "ms", "better": "lower", "samples": p50_ms},
        "goodput": {"value": 14.0, "unit": "/s", "better": "higher", "samples": per_s},
        "lost": {"value": 0, "unit": "requests", "better": "lower", "samples": []},
    }
    result = {"schema": 1, "scenario": "latency", "cpu": "one", "cores": 2, "figures": figures, **changed}
    (path / "result.json").write_text(json.dumps(result))
    return path


def ended(monkeypatch: pytest.MonkeyPatch, config: Any, main: Any, *arguments: object) -> int:
    """Exit code of a command line."""
    monkeypatch.setattr(sys, "argv", ["python", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run(config, main)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_folders_are_compared_figure_by_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick, slow = drifting(2, 1.4)
    a = folder(tmp_path / "a", quick, [14.0] * 20)
    b = folder(tmp_path / "b", slow, [14.1] * 20, cpu="another")
    assert ended(monkeypatch, compare.CompareConfig, compare.main, a, b, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["worse"] == ["p50"]
    assert [row["verdict"] for row in report["figures"]] == ["worse", "same", "not compared"]
    assert report["figures"][0]["ratio"]["ratio"] == pytest.approx(1.4, rel=0.1)
    assert report["notes"] == ["cpu: one against another"]
    assert ended(monkeypatch, compare.CompareConfig, compare.main, a, a) == 0
    shown = capsys.readouterr().out
    assert "| p50 (ms)" in shown
    assert "Nothing is worse beyond doubt." in shown
    assert ended(monkeypatch, compare.CompareConfig, compare.main, a, b) == 1
    assert "Worse beyond doubt: p50." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scenario": "soak"}, "of the scenario latency"),
        ({"schema": 9}, "schema 9, expected 1"),
        ({"figures": {}}, "no figure in common"),
        ({"figures": {"p50": {"value": 1.0}}}, "not as benchmarks.run writes it"),
    ],
)
def test_folders_that_cannot_be_compared_are_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any], message: str,
) -> None:  # fmt: skip
    a = folder(tmp_path / "a", [1.0] * 9, [1.0] * 9)
    b = folder(tmp_path / "b", [1.0] * 9, [1.0] * 9, **changed)
    assert ended(monkeypatch, compare.CompareConfig, compare.main, a, b) == 2
    assert message in capsys.readouterr().err


def test_a_folder_and_a_file_or_nothing_are_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "x.mar").touch()
    with pytest.raises(UsageError, match=r"two result folders or two \.mar"):
        compare.CompareConfig(tmp_path, tmp_path / "x.mar")
    with pytest.raises(UsageError, match="no such file or folder"):
        compare.CompareConfig(tmp_path, tmp_path / "y.mar")
    with pytest.raises(UsageError, match="--pairs"):
        compare.CompareConfig(tmp_path, tmp_path, pairs=2)


def test_a_slice_without_a_value_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a = folder(tmp_path / "a", [*[70.0] * 9, None], [1.0] * 10)
    assert ended(monkeypatch, compare.CompareConfig, compare.main, a, a, "--json") == 0
    assert json.loads(capsys.readouterr().out)["figures"][0]["verdict"] == "not compared"


SAMPLES = {name: [1.0 + 0.01 * (turn % 3) for turn in range(14)] for name in regress.FIGURES}


def test_kept_ratios_are_judged_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mar, kept = tmp_path / "x.mar", tmp_path / "ratios.toml"
    mar.touch()
    measured = dict(SAMPLES)
    monkeypatch.setattr(regress, "measure", lambda _: measured)

    def regressed(*options: object) -> int:
        return ended(monkeypatch, regress.RegressConfig, regress.main, mar, "--ratios", kept, *options)

    assert regressed() == 2
    assert "--update" in capsys.readouterr().err
    assert regressed("--update") == 0
    assert regress.read(kept)["decode_over_engine"].value == pytest.approx(1.01, rel=0.01)
    assert regressed() == 0
    measured["served_over_engine"] = [0.8 * value for value in SAMPLES["served_over_engine"]]
    capsys.readouterr()
    assert regressed() == 1
    worse = [line for line in capsys.readouterr().out.splitlines() if line.startswith("worse: ")]
    assert len(worse) == 1
    assert worse[0].startswith("worse: images/s of 8 clients")
    kept.write_text(kept.read_text().replace("tolerance = 0.08", "tolerance = 0.5"))
    assert regressed() == 0  # what people allow holds
    assert regressed("--update") == 0
    assert regress.read(kept)["served_over_engine"].tolerance == 0.5
    kept.write_text(kept.read_text().replace("served_over_engine", "something"))
    assert regressed() == 2


def test_served_speed_is_set_beside_the_engine_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone:
        """10 images/s one by one, 20 in batches, and twice that after the load."""

        speed = 0.0

        def images_per_s(self, batch_size: int, duration_s: float) -> float:
            self.speed += 10 / 3
            return {1: 10.0, 4: 20.0}[batch_size] * (1 if self.speed < 7 else 2)

    served = dict.fromkeys(turns.FIGURES, 5.0) | {"images/s": 27.0, "p50, one client": 100.0, "engine": 50.0}
    monkeypatch.setattr(turns, "turn", lambda *_: served)
    found = regress._turn(None, Alone(), [], 4, 1)  # type: ignore[arg-type]
    assert found["served_over_engine"] == pytest.approx(27 / 30)
    assert found["one_client_over_engine"] == pytest.approx(100 / (1000 / 15))
    assert found["mask_and_encode_over_engine"] == pytest.approx(0.1)


def test_the_kept_file_is_whole() -> None:
    kept = regress.read(regress.KEPT)
    assert kept["served_over_engine"].value > 0.5
    assert all(0 < one.tolerance < 0.5 for one in kept.values())


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
