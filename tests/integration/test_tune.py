"""Tuning writes what was best into a real package, with measurements that are made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import mar_settings, tune
from benchmarks.mar_settings import Settings
from benchmarks.tune_search import Trial
from segserve.errors import CheckFailed
from segserve.package import check_package


class NoMasks:
    def masks(self, photos: list[bytes]) -> list[None]:
        return [None for _ in photos]


@pytest.fixture
def mar(tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is never served: smaller batches are always better."""

    @contextmanager
    def offline(*_: object) -> Iterator[NoMasks]:
        yield NoMasks()

    def measure(_self: object, settings: Settings, _work: Path) -> Trial:
        return Trial(settings, 1.0, 10 + 8 / settings.batch_size, 50.0, 60.0, settings.batch_size, "cpu", 300)

    monkeypatch.setattr(tune, "assorted_photos", lambda _: [])  # nobody looks at them
    monkeypatch.setattr(tune, "offline", offline)
    monkeypatch.setattr(tune._Measurements, "_trial", measure)
    return Path(shutil.copy(tiny_build / "tiny.mar", tmp_path / "tiny.mar"))


def test_the_best_settings_are_written(mar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = mar.with_name("report.json")
    before = check_package(mar)
    tune.main(tune.Config(mar, json=report))
    assert mar_settings.read(mar).batch_size == 1
    assert check_package(mar) == before
    document = json.loads(report.read_text())
    [best] = [row for row in document["rows"] if row[""] == "best"]
    assert best["batchSize"] == document["chosen"]["batch_size"] == 1
    assert len(document["rows"]) >= 4
    out = capsys.readouterr()
    assert "Objective: most images/s; a lone request at most 1.25 x the shortest" in out.out
    assert out.err.count("images/s, lone request") == len(document["rows"])


def test_a_report_that_cannot_be_written_costs_nothing_else(
    mar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder went while trials were made."""
    folder = mar.with_name("reports")
    folder.mkdir()
    config = tune.Config(mar, json=folder / "report.json")
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        tune.main(config)
    assert mar_settings.read(mar).batch_size == 1
    assert "| best |" in capsys.readouterr().out


def test_a_dry_run_only_looks(mar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = mar.read_bytes()
    tune.main(tune.Config(mar, dry_run=True))
    assert mar.read_bytes() == before
    assert "stays as it is" in capsys.readouterr().out


def test_a_wrong_answer_ends_it(mar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_self: object, settings: Settings, _work: Path) -> Trial:
        raise CheckFailed(f"with {settings}: a mask is wrong")

    before = mar.read_bytes()
    monkeypatch.setattr(tune._Measurements, "_trial", fails)
    with pytest.raises(CheckFailed, match="batch_size=2"):
        tune.main(tune.Config(mar))
    assert mar.read_bytes() == before
