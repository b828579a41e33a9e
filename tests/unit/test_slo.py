"""Objectives from a file, and which of them a load missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.slo import Objective, missed, read
from segserve.errors import UsageError
from tests.unit.test_answers import answered

ROWS = [answered(done=100.0 + n / 100, sent=100.0) for n in range(1, 101)]  # 10 to 1000 ms


def test_the_example_is_read(repo_root: Path) -> None:
    first, second = read(repo_root / "benchmarks" / "slo.toml")
    assert (first.failures, first.format) == (0.0, None)
    assert second.format == "png"


def test_what_holds_is_not_named() -> None:
    held = Objective("all", p50_ms=501, p95_ms=951, p99_ms=991, failures=0, goodput_per_s=10)
    assert missed([held], ROWS, 10) == []


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"p50_ms": 499}, "SLO 'all': p50 was 500 ms, expected at most 499 ms"),
        ({"p95_ms": 900}, "SLO 'all': p95 was 950 ms, expected at most 900 ms"),
        ({"p99_ms": 12.5}, "SLO 'all': p99 was 990 ms, expected at most 12.5 ms"),
        ({"goodput_per_s": 20}, "SLO 'all': 10 right masks a second, expected at least 20"),
    ],
)
def test_what_is_missed_says_got_and_expected(limit: dict[str, Any], said: str) -> None:
    assert missed([Objective("all", **limit)], ROWS, 10) == [said]


def test_failures_are_a_share_and_what_never_came_counts_for_every_version() -> None:
    lost = answered(status=0, wrong="no answer", version=None, device=None)
    rows = [*ROWS[:49], lost]
    said = ["SLO 'one': 1 of 50 answers failed (2 %), expected at most 1 %"]
    assert missed([Objective("one", version="1.0", device="cpu", failures=0.01)], rows, 1) == said
    assert missed([Objective("one", failures=0.02)], rows, 1) == []


def test_filters() -> None:
    rows = [*ROWS, answered(format="json", device="cuda:0", version="2.0", done=109.0)]
    assert missed([Objective("png", format="png", p99_ms=1000)], rows, 1) == []
    assert len(missed([Objective("json", format="json", p99_ms=1000)], rows, 1)) == 1
    assert len(missed([Objective("gpu", device="cuda:0", p99_ms=1000)], rows, 1)) == 1
    assert len(missed([Objective("new", version="2.0", p99_ms=1000)], rows, 1)) == 1


def test_nothing_shown_and_nothing_right_are_missed() -> None:
    assert "no answer fits" in missed([Objective("npy", format="npy", failures=0)], ROWS, 1)[0]
    assert "p50 was nan ms" in missed([Objective("all", p50_ms=10)], [answered(wrong="x")], 1)[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one or more"),
        ("slo = 1", "one or more"),
        ("objective = 1", "one or more"),
        ("[[objective]\n", "not TOML"),
        ("[[objective]]\np50_ms = 1", "name is None"),
        ("[[objective]]\nname = 'a'", "limits nothing"),
        ("[[objective]]\nname = 'a'\np50 = 1", "p50 is not known"),
        ("[[objective]]\nname = 'a'\np50_ms = -1", "p50_ms is -1"),
        ("[[objective]]\nname = 'a'\np50_ms = true", "p50_ms is True"),
        ("[[objective]]\nname = 'a'\nfailures = 5", "share from 0 to 1"),
        ("[[objective]]\nname = 'a'\nformat = 'gif'\np50_ms = 1", "format is 'gif'"),
        ("[[objective]]\nname = 'a'\nversion = 1.0\np50_ms = 1", "version is 1.0"),
        ("[[objective]]\nname = 'a'\np50_ms = 1\n[[objective]]\nname = 'a'\np50_ms = 1", "same name"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "slo.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read(tmp_path / "slo.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"slo\.toml"):
        read(tmp_path / "slo.toml")
