"""The commands that measure a server, on a small model and for moments only: what they say must hold, not be fast."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import mar_settings
from benchmarks.mar_settings import Settings
from benchmarks.photos import Photo
from tests.e2e.serving import run

pytestmark = pytest.mark.timeout(900)  # several starts each, which are patient with a busy machine


@pytest.fixture
def mar(exported: Mapping[str, Path], tmp_path: Path) -> Path:
    """A copy, to be written to."""
    return Path(shutil.copy(exported["1.0"] / "rooms.mar", tmp_path / "rooms.mar"))


@pytest.fixture
def photos(rooms: tuple[Photo, ...], tmp_path: Path) -> Path:
    """A folder of small photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in rooms:
        (folder / f"{photo.name}.jpg").write_bytes(photo.jpeg)
    return folder


def test_served_speed_is_set_beside_the_engines(mar: Path, photos: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "served.json"
    before = mar.read_bytes()
    result = run(
        "benchmarks.served", mar, "--photos", photos, "--concurrency", "3", "20", "--duration-s", "1",
        "--min-answers", "20", "--json", report_file, timeout_s=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(report_file.read_text())
    assert report["failures"] == []
    assert [(row["clients"], row["errors"]) for row in report["rows"]] == [(3, 0), (20, 0)]
    assert len(report["raw_images_per_s"]) == 3
    raw, lone = report["raw_images_per_s"], report["lone_1_mp"]
    for row, around in zip(report["rows"], itertools.pairwise(raw), strict=True):
        assert row["answers"] >= 20
        assert row["images/s"] > 0
        assert row["served/raw"] == pytest.approx(row["images/s"] / statistics.mean(around))
        assert row["p50 ms"] >= row["engine ms"] > 0
    assert report["rows"][1]["batch"] > 1  # 20 clients filled batches
    # within the same answers: the engine alone was timed at another moment, when other tests may have been at work
    assert lone["p50 ms"] > lone["engine ms"] > 0
    assert lone["p50/engine"] == pytest.approx(lone["p50 ms"] / lone["engine alone ms"])
    assert len(report["memory_mib"]["workers"]) == 1
    assert "| clients |" in result.stdout
    assert mar.read_bytes() == before


def test_wrong_masks_are_found(mar: Path, exported: Mapping[str, Path], photos: Path, tmp_path: Path) -> None:
    """A server that answers with another label map than the segmenter does by itself: its colours are swapped."""
    spoilt = tmp_path / "spoilt.mar"
    with zipfile.ZipFile(mar) as old, zipfile.ZipFile(spoilt, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "segmentation_handler.py":
                content += (
                    b"\n\nService._finish = (lambda real: lambda self, job: ("
                    b"setattr(job, 'logits_chw', job.logits_chw[::-1]), real(self, job))[1])(Service._finish)\n"
                )
            new.writestr(name, content)
    result = run(
        "benchmarks.served", spoilt, "--photos", photos, "--concurrency", "2", "--duration-s", "0.5",
        "--min-answers", "10", timeout_s=280,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout + result.stderr
    assert "of the mask is what the segmenter answers by itself" in result.stderr.replace("\n", " ")


def test_tuning_shows_and_then_writes_what_was_best(mar: Path, photos: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "tune.json"
    before, settings = mar.read_bytes(), mar_settings.read(mar)
    options: list[str | Path] = [
        "--photos",
        photos,
        "--duration-s",
        "0.5",
        "--budget-s",
        "1",
        "--json",
        report_file,
    ]
    result = run("benchmarks.tune", mar, *options, "--dry-run", timeout_s=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert mar.read_bytes() == before
    report = json.loads(report_file.read_text())
    assert Settings(**report["chosen"]) == settings
    [row] = report["rows"]
    assert (row[""], row["workers"], row["batchSize"]) == ("best", 1, settings.batch_size)
    assert row["images/s"] > 0
    assert "the budget is spent" in result.stderr
    result = run("benchmarks.tune", mar, *options, timeout_s=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert Settings(**json.loads(report_file.read_text())["chosen"]) == mar_settings.read(mar)
