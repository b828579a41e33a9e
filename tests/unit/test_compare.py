"""What `benchmarks.compare` concludes from the figures of two result folders; no server here."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from segserve.cli import run
from segserve.errors import UsageError
from tests.turns import drifting


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


def figure(
    value: float | None, better: str = "lower", samples: Sequence[float | None] = ()
) -> dict[str, Any]:
    """As it is in result.json."""
    return {"value": value, "unit": "some", "better": better, "samples": list(samples)}


@pytest.fixture
def compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Exit code, report and closing words, of the figures of A and of B."""

    def call(figures_a: dict[str, Any], figures_b: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
        work = Path(tempfile.mkdtemp(dir=tmp_path))
        a = folder(work / "a", [], [], figures=figures_a)
        b = folder(work / "b", [], [], figures=figures_b)
        code = ended(monkeypatch, compare.CompareConfig, compare.main, a, b, "--json")
        report = strict_json(capsys.readouterr().out)
        assert ended(monkeypatch, compare.CompareConfig, compare.main, a, b) == code
        return code, report, capsys.readouterr().out.partition("tolerance 10%.")[2].strip()

    return call


def strict_json(text: str) -> dict[str, Any]:
    """No NaN and no Infinity."""
    found: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return found


def capacity(low: float, value: float, high: float) -> dict[str, Any]:
    return {
        "capacity": figure(value, "higher"),
        "capacity, low": figure(low, "higher"),
        "capacity, high": figure(high, "higher"),
    }


@pytest.mark.parametrize(
    ("low", "value", "high", "expected"),
    [
        (2.9, 3.0, 3.1, "worse"), (12.2, 12.4, 12.6, "unclear"), (13.9, 14.2, 14.5, "same"),
        (18.0, 19.0, 20.0, "better"), (0.0, 0.0, 0.0, "worse"),
    ],
)  # fmt: skip
def test_a_capacity_is_judged_by_its_range(
    compared: Any, low: float, value: float, high: float, expected: str
) -> None:
    code, report, words = compared(capacity(13.9, 14.2, 14.5), capacity(low, value, high))
    [row] = report["figures"]  # its ends are no figures of their own
    assert (row["verdict"], row["by"]) == (expected, "ranges")
    assert code == (expected == "worse")
    assert words == ("Worse" if code else "Nothing is worse") + " beyond doubt" + (
        ": capacity." if code else "."
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (figure(0), figure(70), ("worse", "values")),
        (figure(0), figure(0), ("same", "values")),
        (figure(3), figure(0), ("better", "values")),
        (figure(10.0), figure(10.9), ("same", "values")),
        (figure(10.0), figure(11.1), ("worse", "values")),
        (figure(100.0, "higher"), figure(80.0, "higher"), ("worse", "values")),
        (figure(100.0, "higher"), figure(0, "higher"), ("worse", "values")),
        (figure(3.0), figure(None), ("worse", "gaps")),
        (figure(None), figure(3.0), ("better", "gaps")),
        (figure(0, samples=[0] * 12), figure(0.5, samples=[0.5] * 12), ("worse", "values")),
        (figure(0, samples=[0] * 12), figure(0.001, samples=[0] * 11 + [0.012]), ("worse", "values")),
        # one failure, and two: in other slices, and by chance
        (figure(0.01, samples=[0] * 11 + [0.12]), figure(0.02, samples=[0.12, *[0] * 10, 0.12]),
         ("unclear", "differences")),
        (figure(0.01, samples=[0] * 11 + [0.12]), figure(0.5, samples=[0.5] * 12), ("worse", "differences")),
        (figure(0.5, samples=[0.5] * 12), figure(0.0, samples=[0.0] * 12), ("better", "differences")),
        (figure(70.0, samples=[70.0] * 12), figure(70.0, samples=[70.0] * 11 + [None]), ("worse", "gaps")),
        (figure(14.0, "higher", [14.0] * 12), figure(9.3, "higher", [14.0] * 8 + [0.0] * 4), ("worse", "gaps")),
        (figure(70.0, samples=[None] + [70.0] * 11), figure(70.0, samples=[70.0] * 11 + [None]), ("same", "ratios")),
        (figure(70.0, samples=[None] + [70.0] * 11), figure(99.0, samples=[99.0] * 12), ("worse", "ratios")),
        (figure(70.0, samples=[70.0] * 12), figure(99.0, samples=[99.0] * 3), ("worse", "values")),
    ],
)  # fmt: skip
def test_what_has_no_ratio_is_judged_all_the_same(
    compared: Any, a: dict[str, Any], b: dict[str, Any], expected: tuple[str, str]
) -> None:
    code, report, words = compared({"one": a}, {"one": b})
    [row] = report["figures"]
    assert (row["verdict"], row["by"]) == expected
    assert code == (expected[0] == "worse")
    assert report["not_compared"] == []
    assert (
        words
        == {
            "values": "Worse by the value alone, which has no interval: one.",
            "gaps": "Worse, as B has nothing where A has something: one.",
        }.get(row["by"], "Worse beyond doubt: one.")
        if code
        else "Nothing is worse beyond doubt."
    )


def test_memory_that_grows_is_held_against_the_memory(compared: Any) -> None:
    """Growth lies about 0, and a tenth of that is chance."""
    a = {"java: growth": figure(-0.5), "java: most memory": figure(700.0)}
    calm = {"java: growth": figure(4.0), "java: most memory": figure(702.0)}
    leak = {"java: growth": figure(300.0), "java: most memory": figure(702.0)}
    assert compared(a, calm)[0] == 0
    code, report, _ = compared(a, leak)
    assert (code, report["worse"]) == (1, ["java: growth"])


def test_what_is_not_compared_is_named_and_is_no_success(compared: Any) -> None:
    p50, gone = figure(9.0), {"cuda:1: images/s": figure(40.0, "higher")}
    code, report, words = compared({"p50": p50, **gone}, {"p50": p50})
    assert (code, report["not_compared"]) == (0, ["cuda:1: images/s"])
    assert report["figures"][1]["b"] is None
    assert words.splitlines() == [
        "No compared figure is worse beyond doubt.",
        "Not compared, as a side has nothing of it: cuda:1: images/s.",
    ]
    code, report, words = compared({"p50": figure(None)}, {"p50": figure(None)})
    assert (code, report["not_compared"], words) == (1, ["p50"], "Nothing could be compared.")


def test_the_knee_is_told_and_its_throughputs_are_judged(compared: Any) -> None:
    code, report, _ = compared(
        {"knee, clients": figure(8, "higher"), "p50": figure(9.0)},
        {"knee, clients": figure(4, "higher"), "p50": figure(9.0)},
    )
    assert (code, report["notes"]) == (0, ["knee, clients: 8 against 4"])
    assert [row["figure"] for row in report["figures"]] == ["p50"]
