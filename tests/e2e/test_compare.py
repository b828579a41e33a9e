"""Two packages served at once and in turn: the one with the slower engine is found out, by its engine's figure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.photos import Photo
from benchmarks.slowed import slowed
from segserve.package import check_package
from tests.e2e.serving import run

pytestmark = pytest.mark.timeout(900)  # several starts each, which are patient with a busy machine


def test_a_much_slower_engine_is_worse_beyond_doubt(
    exported: Mapping[str, Path], rooms: tuple[Photo, ...], tmp_path: Path
) -> None:
    """Ten times as slow, in so many pairs that ranks judge: of five, one turn beside other load hides even that."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for photo in rooms[:4]:
        (photos / f"{photo.name}.jpg").write_bytes(photo.jpeg)
    mar = exported["1.0"] / "rooms.mar"
    slow = slowed(mar, tmp_path / "slow.mar", 10.0)
    assert check_package(slow).version == "slowed"
    result = run(
        "benchmarks.compare", mar, slow, "--photos", photos, "--pairs", "12", "--clients", "2", "--json",
        timeout_s=280,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert {"engine", "images/s", "p50, one client"} <= set(report["worse"])
    assert report["notes"] == ["masks: the same for all 4 photos"]
    assert all(row["ratio"]["pairs"] == 12 for row in report["figures"])
