"""The report of served speed, from answers that are made up."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks import mar_settings, served
from benchmarks.client import Answer, Load
from benchmarks.mar_settings import Settings
from benchmarks.photos import Photo, assorted_photos, photos_of
from benchmarks.served import Config, failures_of, row, steady_images_per_s, steps_ms, wrong_masks
from segserve.errors import UsageError
from tests.specs import make_spec

PHOTOS = [Photo("a", b"", 100, 80), Photo("b", b"", 100, 80)]
MASKS = [np.full((100, 80), 3, np.uint8), np.full((100, 80), 4, np.uint8)]
TIMING = "decode;dur=5.0, engine;dur=40.0, mask;dur=1.0, encode;dur=2.0, total;dur=50.0"


def png(labels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    return file.getvalue()


def answer(request: int, latency_s: float, body: bytes | None = None, status: int = 200) -> Answer:
    headers = {"server-timing": TIMING, "x-segserve-batch-size": str(1 + request)}
    return Answer(request, status, 0.0, latency_s, headers, 10, body, "" if status == 200 else "why")


def test_a_row_says_what_was_measured() -> None:
    load = Load(2, 10.0, (answer(0, 0.06), answer(1, 0.08), answer(0, 0.5, status=503), answer(1, 11.0)))
    made = row(load, workers=2)
    assert (made["clients"], made["answers"], made["errors"]) == (2, 2, 1)
    assert made["images/s"] == pytest.approx(2 / 0.08)
    assert (made["p50 ms"], made["p99 ms"]) == (60, 80)
    assert made["batch"] == pytest.approx(4 / 3)  # one of a batch of 1, one of a batch of 2
    assert failures_of(load) == ["2 clients: 503 why"]


def test_the_first_batch_of_each_worker_is_not_counted() -> None:
    """Batches of 4, one a second after the first, which takes ten."""
    answers = [
        Answer(0, 200, 0.0, 10.0 + n + 0.01 * k, {"server-timing": f"{TIMING}{n}"}, 10, None)
        for n in range(5)
        for k in range(4)
    ]
    load = Load(8, 100.0, tuple(answers))
    assert steady_images_per_s(load, workers=1) == pytest.approx(4.0)
    assert steady_images_per_s(load, workers=2) == pytest.approx(4.0)
    assert steady_images_per_s(load, workers=5) == load.images_per_s == pytest.approx(20 / 14.03)


def test_the_steps_add_up_to_the_latency() -> None:
    steps = steps_ms(Load(1, 1.0, (answer(0, 0.06),)))
    assert steps == {"decode": 5, "engine": 40, "mask": 1, "encode": 2, "queue, HTTP": pytest.approx(10)}


def test_masks_are_compared_with_the_segmenters_own() -> None:
    nearly = MASKS[0].copy()
    nearly[0, :7] = 4  # 7 of 8000 pixels
    right = Load(1, 1.0, (answer(0, 0.1, png(nearly)), answer(1, 0.1, png(MASKS[1])), answer(1, 0.1)))
    assert wrong_masks(right, PHOTOS, MASKS) == []
    turned = Load(1, 1.0, (answer(0, 0.1, png(MASKS[0].T)),))
    assert "expected (100, 80)" in wrong_masks(turned, PHOTOS, MASKS)[0]
    mixed_up = Load(1, 1.0, (answer(0, 0.1, png(MASKS[1])), answer(1, 0.1, png(MASKS[0]))))
    assert [text.split(": ")[1] for text in wrong_masks(mixed_up, PHOTOS, MASKS)] == ["a", "b"]


def test_a_load_without_a_good_answer_still_makes_a_row() -> None:
    made = row(Load(1, 1.0, (answer(0, 0.1, status=503),)), workers=1)
    assert (made["answers"], made["errors"], made["images/s"]) == (0, 1, 0)
    assert math.isnan(made["batch"])


def test_assorted_photos_are_of_many_sizes_and_qualities() -> None:
    photos = list(assorted_photos(1))
    megapixels = [photo.height * photo.width / 1e6 for photo in photos]
    assert (min(megapixels), max(megapixels)) == pytest.approx((0.3, 3), abs=0.01)
    assert len({photo.jpeg for photo in photos}) == len({photo.name for photo in photos}) == len(photos) >= 10
    for photo in photos:
        with Image.open(io.BytesIO(photo.jpeg)) as image:
            assert sorted(image.size) == sorted((photo.height, photo.width))


def raising(error: Exception) -> Callable[[object], None]:
    """What Pillow does with a torn or a vast file."""

    def transpose(_: object) -> None:
        raise error

    return transpose


def test_a_folder_of_photos_upright_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = next(photo for photo in assorted_photos(1) if photo.height > photo.width)
    (tmp_path / "b.JPG").write_bytes(turned.jpeg)
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no photo")
    found = photos_of(tmp_path)
    assert [(p.name, p.height, p.width) for p in found] == [
        ("a.png", 20, 30), ("b.JPG", turned.height, turned.width),
    ]  # fmt: skip
    (tmp_path / "c.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"c\.jpg is not an image"):
        photos_of(tmp_path)
    (tmp_path / "c.jpg").unlink()
    for error in (SyntaxError("broken PNG file"), Image.DecompressionBombError("Image size exceeds limit")):
        monkeypatch.setattr(ImageOps, "exif_transpose", raising(error))
        with pytest.raises(UsageError, match=f"a.png is not an image: {error}"):
            photos_of(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="holds no"):
        photos_of(tmp_path / "none")


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    mar = tmp_path / "x.mar"
    with pytest.raises(UsageError, match="no such file"):
        Config(mar)
    mar.touch()
    for options in (
        {"concurrency": ()}, {"concurrency": (0,)}, {"concurrency": (16, 4, 16)}, {"duration_s": 0}, {"min_answers": 0},
        {"photos": tmp_path / "x"},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            Config(mar, **options)


class Alone:
    """Engines without a server, which make so many images/s all together."""

    def __init__(self, images_per_s: float) -> None:
        self._images_per_s = images_per_s

    def images_per_s(self, batch_size: int, duration_s: float) -> float:
        return self._images_per_s

    def masks(self, photos: list[bytes]) -> list[np.ndarray]:
        return MASKS[: len(photos)]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Answer], Config]:
    """Two workers, whose engines make 10 images/s together and 8 alone; a server that always gives one answer."""

    @contextmanager
    def engine_alone(*_: object) -> Iterator[tuple[Alone, Alone]]:
        yield Alone(10.0), Alone(8.0)

    @contextmanager
    def serving(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(url="http://server", memory_mib=lambda: {"java": 1, "workers": [1, 1]})

    def ready(one: Answer) -> Config:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.png").write_bytes(png(MASKS[0]))
        (tmp_path / "x.mar").touch()
        monkeypatch.setattr(served, "check_package", lambda _: make_spec())
        monkeypatch.setattr(mar_settings, "read", lambda _: Settings(2, 2, 4, 1))
        monkeypatch.setattr(served, "engine_alone", engine_alone)
        monkeypatch.setattr(served, "serving", serving)
        monkeypatch.setattr(served, "photo", lambda *_: PHOTOS[0])
        monkeypatch.setattr(
            served, "drive", lambda url, requests, clients, *_, **__: Load(clients, 9.0, (one,))
        )
        (tmp_path / "reports").mkdir()
        return Config(
            tmp_path / "x.mar", tmp_path / "photos", (2,), json=tmp_path / "reports" / "served.json"
        )

    return ready


def report(config: Config) -> dict[str, Any]:
    assert config.json is not None
    found: dict[str, Any] = json.loads(
        config.json.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")
    )
    return found


def test_a_lone_request_is_set_beside_an_engine_that_is_as_lone(play: Any) -> None:
    config = play(answer(0, 0.15))
    assert served.main(config) == 0
    lone = report(config)["lone_1_mp"]
    assert (lone["p50 ms"], lone["engine alone ms"], lone["p50/engine"]) == pytest.approx((150, 125, 1.2))


def test_what_was_not_answered_is_null(play: Any) -> None:
    config = play(answer(0, 0.15, status=503))
    assert served.main(config) == 1
    assert report(config)["lone_1_mp"]["p50 ms"] is None
    assert report(config)["failures"] == ["1 clients: 503 why", "2 clients: 503 why"]


def test_what_was_measured_is_shown_even_if_it_cannot_be_written(
    play: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = play(answer(0, 0.15))
    config.json.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        served.main(config)
    assert "| clients |" in capsys.readouterr().out


def test_the_lone_engine_has_a_workers_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded = list[Settings]()

    @contextmanager
    def offline(mar: Path, settings: Settings, folder: Path) -> Iterator[Alone]:
        loaded.append(settings)
        yield Alone(1.0)

    monkeypatch.setattr(served, "offline", offline)
    both = Settings(workers=2, threads=6, batch_size=4, delay_ms=1)
    with served.engine_alone(tmp_path, both, tmp_path) as (alone, one):
        assert loaded == [both, Settings(workers=1, threads=6, batch_size=4, delay_ms=1)]
        assert one is not alone
    with served.engine_alone(tmp_path, Settings(1, 0, 4, 1), tmp_path) as (alone, one):
        assert one is alone
        assert loaded[2:] == [Settings(1, 0, 4, 1)]  # once
