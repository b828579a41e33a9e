"""What `benchmarks.compare` concludes from the figures of two result folders; no server here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from segserve.errors import UsageError
from tests.result_folders import ended, folder
from tests.turns import drifting


def test_folders_are_compared_figure_by_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick, slow = drifting(2, 1.4)
    a = folder(tmp_path / "a", quick, [14.0] * 20)
    b = folder(tmp_path / "b", slow, [14.1] * 20, cpu="another")
    assert ended(monkeypatch, compare.CompareConfig, compare.main, a, b, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["worse"] == ["p50"]
    assert [row["verdict"] for row in report["figures"]] == ["worse", "same", "same"]
    assert [row["by"] for row in report["figures"]] == ["ratios", "ratios", "values"]
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
        ({"command": "python 'latency"}, "not as benchmarks.run writes it"),
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


def test_other_options_and_a_run_that_failed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which package and which folder are meant to differ."""
    command = "python -m benchmarks.run latency --mar {0}.mar --out runs/{0} --concurrency {1} --level-s=30"
    lost = ["9 requests were lost, the first: status 500", "SLO 'all': no answer fits it"]
    a = folder(tmp_path / "a", [1.0] * 9, [1.0] * 9, command=command.format("a", "1 8"), failures=[])
    b = folder(
        tmp_path / "b",
        [1.0] * 9,
        [1.0] * 9,
        command=command.format("b", "1 16") + " --json --warm_s 9",
        failures=lost,
    )
    ended(monkeypatch, compare.CompareConfig, compare.main, a, b, "--json")
    assert json.loads(capsys.readouterr().out)["notes"] == [
        "--concurrency: 1 8 against 1 16",
        "--warm-s: left out against 9",
        f"B had failed itself: {lost[0]}, and 1 more",
    ]
    ended(monkeypatch, compare.CompareConfig, compare.main, b, b)
    shown = capsys.readouterr().out
    assert "A had failed itself: 9 requests were lost" in shown
    assert "--concurrency" not in shown


def test_a_folder_and_a_file_or_nothing_are_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "x.mar").touch()
    with pytest.raises(UsageError, match=r"two result folders or two \.mar"):
        compare.CompareConfig(tmp_path, tmp_path / "x.mar")
    with pytest.raises(UsageError, match="no such file or folder"):
        compare.CompareConfig(tmp_path, tmp_path / "y.mar")
    with pytest.raises(UsageError, match="--pairs"):
        compare.CompareConfig(tmp_path, tmp_path, pairs=2)
