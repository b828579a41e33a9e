"""Load shapes: how many users when, and which trace files are taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load_shapes import Soak, Spike, Steps, read_trace
from segserve.errors import UsageError


@pytest.mark.parametrize(
    ("shape", "users"),
    [
        (Steps(3, 10.0, 2), {0: 3, 9.9: 3, 10: 6, 19.9: 6, 20: None}),
        (Spike(2, 9, 20.0, 5.0), {0: 2, 19.9: 2, 20: 9, 24.9: 9, 25: 2, 44.9: 2, 45: None}),
        (Soak(8, 1.0, 4.0), {0: 2, 1: 4, 3: 8, 59.9: 8, 60: None}),
    ],
)
def test_users_over_time(shape: Any, users: dict[float, int | None]) -> None:
    assert {second: shape.at(second) for second in users} == users


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Steps(0, 10.0, 2), "--step-users"),
        (lambda: Steps(1, 0.0, 2), "--step-s"),
        (lambda: Spike(2, 0, 20.0, 5.0), "--spike-users"),
        (lambda: Spike(2, 2, 20.0, 0.0), "--spike-s"),
        (lambda: Soak(8, 0.0, 4.0), "--soak-minutes"),
    ],
)
def test_shapes_that_are_none(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("seconds,arrivals_per_s\n0,1\n5,20.4\n\n8,0\n10,0\n")
    trace = read_trace(path)
    assert trace.of_arrivals
    assert {second: trace.at(second) for second in (0, 4.9, 5, 8.5, 10)} == {
        0: 1, 4.9: 1, 5: 20, 8.5: 0, 10: None,
    }  # fmt: skip
    path.write_text("seconds,users\n0,1\n5,2\n")
    assert not read_trace(path).of_arrivals


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with ''"),
        ("0,1\n5,2\n", "begins with '0,1'"),
        ("seconds,users\n0,1\n", "two rows or more"),
        ("seconds,users\n1,1\n2,1\n", "from second 0"),
        ("seconds,users\n0,1\n0,1\n", "later than the last"),
        ("seconds,users\n0,1\n5,many\n", "not two numbers"),
        ("seconds,users\n0,1\n5\n", "not two numbers"),
        ("seconds,users\n0,-1\n5,0\n", "counts from 0"),
    ],
)
def test_other_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_trace(tmp_path / "trace.csv")


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"none\.csv"):
        read_trace(Path("none.csv"))
