"""The load test itself under test: real Locust against a server that is right, wrong now and then, or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import answers
from benchmarks.answers import BODIES
from benchmarks.photos import Photo
from benchmarks.ports import load_processes
from segserve.encode import png
from segserve.segmenter import Segmenter
from segserve.spec import SPEC_FILE, Golden
from tests.e2e.load_service import SPEC, BrightestColour, mirrored, run_locust, service_over_http
from tests.e2e.serving import Server

NUM_PHOTOS = 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, rooms: tuple[Photo, ...]) -> Path:
    """A folder of a few small photos, upright and turned."""
    folder = tmp_path_factory.mktemp("photos")
    for number, photo in enumerate(rooms[:NUM_PHOTOS]):
        (folder / f"{number}.jpg").write_bytes(photo.jpeg)
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, rooms: tuple[Photo, ...]) -> Path:
    """An unpacked package of version 1.2 with a golden photo; that of 9.9 beside it never answers."""
    folder = tmp_path_factory.mktemp("package")
    photo = rooms[0].jpeg
    mask = png(Segmenter(SPEC, BrightestColour()).segment(photo), SPEC.palette_rgb)
    for version in (SPEC.version, "9.9"):
        place = folder / version
        place.mkdir()
        digests = [hashlib.sha256(content).hexdigest() for content in (photo, mask)]
        (place / "golden-1.jpg").write_bytes(photo)
        (place / "golden-1-mask.png").write_bytes(mask)
        golden = (Golden("golden-1.jpg", digests[0], "golden-1-mask.png", digests[1]),)
        dataclasses.replace(SPEC, version=version, golden=golden).save(place / SPEC_FILE)
    return folder


def test_right_masks_pass(repo_root: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    options = ("--multipart", "0.5", "--formats", "png=1,json=1", "--answers", str(file))
    with service_over_http(lambda _, photo: photo) as url:
        code, text = run_locust(repo_root, url, photos, *options)
    assert code == 0, text
    assert "png v1.2 cpu" in text
    rows = answers.read(file)
    assert {(row.format, row.body) for row in rows} == set(itertools.product(("png", "json"), BODIES))
    assert all(row.good and row.version == "1.2" and row.engine == "numpy" for row in rows)
    assert all(row.sent >= row.due and row.batch_size == 1 and row.bytes for row in rows)
    assert all({"queue", "decode", "engine", "mask"} <= set(row.server_ms) for row in rows)


def test_the_real_server_passes(repo_root: Path, photos: Path, server: Server, offline: Segmenter) -> None:
    classes = len(offline.spec.classes)
    code, text = run_locust(repo_root, server.running.url, photos, "--multipart", "0.3", num_classes=classes)
    assert code == 0, text
    assert f"png v{offline.spec.version} cpu" in text


def test_answers_that_turn_wrong_under_load_fail(repo_root: Path, photos: Path) -> None:
    def tamper(number: int, photo: bytes) -> bytes:
        if number < NUM_PHOTOS:  # while it is quiet
            return photo
        return (mirrored(photo), b"junk", photo)[number % 3]

    with service_over_http(tamper) as url:
        code, text = run_locust(repo_root, url, photos)
    assert code == 1, text
    assert "png: another mask than version 1.2 gave when it was quiet" in text
    assert re.search("status 400.*BadImage", text)


def test_masks_that_are_always_wrong_need_a_package_to_be_seen(
    repo_root: Path, photos: Path, package: Path
) -> None:
    with service_over_http(lambda _, photo: mirrored(photo)) as url:
        masks = ("--formats", "png=1,json=1,npy=1")  # an overlay shows that it is another photo
        code, text = run_locust(repo_root, url, photos, "--run-time", "1s", *masks)
        assert code == 0, text
        code, text = run_locust(repo_root, url, photos, "--mar", str(package / "1.2"))
    assert code == 1, text
    assert "not the mask of the package of version 1.2" in text


def test_a_package_whose_version_never_answers_is_named(repo_root: Path, photos: Path, package: Path) -> None:
    with service_over_http(lambda _, photo: photo) as url:
        mars = ("--mar", str(package / "1.2"), "--mar", str(package / "9.9"))
        code, text = run_locust(repo_root, url, photos, *mars, "--run-time", "1s")
    assert code == 0, text
    assert "no right mask came from version 9.9" in text
    assert "from version 1.2" not in text


def test_open_load_does_not_wait_and_waits_for_the_last_answer(
    repo_root: Path, photos: Path, tmp_path: Path
) -> None:
    def slow(number: int, photo: bytes) -> bytes:
        if number >= NUM_PHOTOS:
            time.sleep(0.1)  # ten answers a second at most, because the service answers one after another
        return photo

    file = tmp_path / "answers.jsonl"
    options = ("--rate", "20", "--arrivals", "constant", "--users", "1", "--answers", str(file))
    with service_over_http(slow) as url:
        code, text = run_locust(repo_root, url, photos, *options)
    assert code == 0, text
    rows = answers.read(file)
    dues = sorted(row.due for row in rows)
    assert np.diff(dues) == pytest.approx(1 / 20, abs=1e-3)
    assert len(rows) > 20  # what was due in two seconds, though it took longer to answer
    assert max(row.done for row in rows) - dues[-1] > 0.1 * len(rows) / 4
    last = max(rows, key=lambda row: row.due)
    assert last.latency_ms > 500
    assert re.search(rf"Aggregated +{len(rows)} ", text)


@contextlib.contextmanager
def another_load_on_this_machine() -> Iterator[None]:
    """Its master has the port that Locust takes when it is told none."""
    with socket.socket() as master:
        with contextlib.suppress(OSError):  # it has, really
            master.bind(("", 5557))
        yield


def test_two_processes_share_the_rate_and_the_master_judges_all_answers(
    repo_root: Path, photos: Path, tmp_path: Path
) -> None:
    file, objectives = tmp_path / "answers.jsonl", tmp_path / "slo.toml"
    objectives.write_text(
        "[[objective]]\nname = 'fast'\np50_ms = 0.001\n[[objective]]\nname = 'ok'\nfailures = 0\n"
    )
    # long beside the moment by which one process may begin after the other
    options = (
        "--rate",
        "20",
        "--arrivals",
        "constant",
        "--users",
        "2",
        "--run-time",
        "5s",
        *load_processes(2),
    )
    with another_load_on_this_machine(), service_over_http(lambda _, photo: photo) as url:
        code, text = run_locust(
            repo_root, url, photos, *options, "--answers", str(file), "--slo", str(objectives)
        )
    assert code == 1, text
    assert "SLO 'fast': p50 was" in text
    assert "SLO 'ok'" not in text
    rows = answers.read(file)
    assert re.search(rf"Aggregated +{len(rows)} ", text)
    seconds = max(row.due for row in rows) - min(row.due for row in rows)
    assert len(rows) / seconds == pytest.approx(20, rel=0.3)


def test_a_shape_is_followed(repo_root: Path, photos: Path) -> None:
    with service_over_http(lambda _, photo: photo) as url:
        code, text = run_locust(
            repo_root, url, photos, "-f", "benchmarks/locustfile.py,benchmarks/shapes.py", "--shape", "steps",
            "--step-s", "2", "--steps", "2", "--step-users", "3",
        )  # fmt: skip
    assert code == 0, text
    assert re.findall(r"Shape test updating to (\d+) users", text) == ["3", "6"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rate", "5", "RoomsUser"), "--rate goes with OpenUser"),
        (("--formats", "gif=1"), "--formats: got 'gif=1'"),
        (("--slo", "none.toml"), "cannot read none.toml"),
    ],
)
def test_options_that_make_no_sense(
    repo_root: Path, photos: Path, options: tuple[str, ...], said: str
) -> None:
    code, text = run_locust(repo_root, "http://127.0.0.1:1", photos, *options)
    assert code == 2, text
    assert said in text


def test_no_mask_of_a_quiet_photo_is_the_end(repo_root: Path, photos: Path) -> None:
    with service_over_http(lambda _number, _photo: b"junk") as url:
        code, text = run_locust(repo_root, url, photos)
    assert code == 1
    assert "gave no right mask of a quiet photo" in text


def test_a_server_that_is_not_there_is_named(
    repo_root: Path, photos: Path, free_ports: Callable[[int], list[int]]
) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    code, text = run_locust(repo_root, url, photos)
    assert code == 1
    assert url in text
    assert "make serve" in text
