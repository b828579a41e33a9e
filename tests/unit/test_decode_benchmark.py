"""The decoding benchmark compares two ways to the same input, and says where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import decode as benchmark
from segserve import cli
from segserve.engines import Engine
from segserve.image import read
from segserve.resize import to_input
from segserve.segmenter import Segmenter
from tests.images import photo, saved
from tests.specs import make_spec


def brightness(images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Wall where it is dark, floor where it is light."""
    grey = images_nhwc[:, ::8, ::8].mean(axis=3, dtype=np.float32)
    return np.stack([127.5 - grey, grey - 127.5, np.full_like(grey, -999)], axis=1)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    segmenter = Segmenter(make_spec(), cast("Engine", brightness))
    monkeypatch.setattr(benchmark, "checkpoint_segmenter", lambda path: segmenter)
    return segmenter


@pytest.mark.parametrize("orientation", [1, 6])
def test_both_ways_lead_to_the_same_input(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo(60, 80), "PNG", exif=exif)
    ours, _ = to_input(read(data, input_size=(48, 40)), 48, 40)
    assert np.abs(benchmark.plain(data, 48, 40).astype(int) - ours).max() <= (0 if orientation == 1 else 1)


def test_a_photo_that_is_not_reduced_agrees_with_itself(demo: Segmenter) -> None:
    got = benchmark.agreement(saved(photo(60, 80), "JPEG"), 64, 64, demo)
    assert got == {"input_difference": 0, "labels_agree_%": 100, "last_bit_%": 100}


def test_labels_that_hang_on_the_last_bit_are_told(demo: Segmenter) -> None:
    """Noise around the grey at which the labels change: whatever differs in the input differs in them."""
    noise = np.random.default_rng(0).normal(127.5, 20, (320, 400, 3)).clip(0, 255).astype(np.uint8)
    got = benchmark.agreement(saved(noise, "JPEG", quality=95), 64, 64, demo)
    assert 0 < got["input_difference"] < 5
    assert 50 < got["labels_agree_%"] < 100
    assert 50 < got["last_bit_%"] < 100


@pytest.mark.usefixtures("demo")
def test_the_report_has_a_row_for_each_photo_and_input_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "large.jpg").write_bytes(saved(Image.fromarray(photo(640, 1280)), "JPEG"))
    (tmp_path / "small.png").write_bytes(saved(photo(30, 40), "PNG"))
    photos = (tmp_path / "large.jpg", tmp_path / "small.png")
    benchmark.main(benchmark.Config(photos, seconds=0.01, as_json=True))
    report = json.loads(capsys.readouterr().out)
    rows = [(row["photo"], row["input"], row["decoded_at"]) for row in report["rows"]]
    assert rows == [
        ("large.jpg", "480x480", "1/2"),
        ("large.jpg", "240x320", "1/2"),
        ("small.png", "480x480", "1/1"),
        ("small.png", "240x320", "1/1"),
    ]
    for row in report["rows"]:
        assert row["ratio"] == pytest.approx(row["plain_ms"] / row["ours_ms"])
        assert row["decode_ms"] > 0
    assert report["side_by_side"]["times_one_thread"] > 0
    assert report["cpu"]
    benchmark.main(benchmark.Config(photos[1:], seconds=0.01))
    [_, header, _, *lines] = [line for line in capsys.readouterr().out.splitlines() if line][:5]
    assert [cell.strip() for cell in header.split("|")][1:6] == ["photo", "MP", "kB", "input", "decoded_at"]
    assert [line.split()[1] for line in lines] == ["small.png", "small.png"]


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), (b"words", "not an image")])
def test_files_that_are_no_photos_are_wrong_usage(
    content: bytes | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "odd.jpg"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr("sys.argv", ["decode", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.run(benchmark.Config, benchmark.main)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
