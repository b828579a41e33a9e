"""The load test where something breaks off: an answer that nothing can read, a load process that dies."""

from __future__ import annotations

import contextlib
import gzip
import re
import signal
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from benchmarks import answers
from benchmarks.answers import VERSION_HEADER
from benchmarks.photos import Photo
from benchmarks.ports import load_processes
from segserve.encode import npy, png
from segserve.request import CONTENT_TYPES
from segserve.segmenter import Segmenter
from tests.e2e.load_service import SPEC, BrightestColour, run_locust, service_over_http
from tests.serving_http import reply, serving


@pytest.fixture
def photos(tmp_path: Path, room: Photo) -> Path:
    """A folder of one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(room.jpeg)
    return folder


def test_answers_that_cannot_even_be_read_are_failed_requests(
    repo_root: Path, photos: Path, room: Photo, tmp_path: Path
) -> None:
    """An npy file whose header is no Python, half a gzip file, an unknown encoding: readers raise all sorts."""
    labels, file = Segmenter(SPEC, BrightestColour()).segment(room.jpeg), tmp_path / "answers.jsonl"
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        accept = handler.headers["Accept"]
        headers: dict[str, str] = {"Content-Type": accept, VERSION_HEADER.replace("-", "_"): "1.2"}
        body = png(labels, SPEC.palette_rgb)
        if accept == CONTENT_TYPES["npy"]:
            body = npy(labels).replace(b"}", b" ", 1)
        elif accept == CONTENT_TYPES["overlay"]:
            headers["Content-Encoding"] = "lzma"
        elif asked:  # the first is that of the quiet photo
            body, headers["Content-Encoding"] = gzip.compress(body)[:-20], "gzip"
        asked.append(accept)
        reply(handler, body, 200, **headers)

    with serving(answer) as url:
        options = ("--formats", "png=1,npy=1,overlay=1", "--run-time", "3s", "--answers", str(file))
        code, text = run_locust(repo_root, url, photos, *options)
    assert code == 1, text
    assert file.exists(), text
    rows = answers.read(file)
    assert len(rows) == len(asked) - 1
    assert {(row.format, row.status, row.wrong) for row in rows} == {
        ("npy", 200, "not an npy file: TokenError"),
        ("png", 200, "could not be judged: error: Error -5 while decompressing data: incomplete or truncated stream"),
        ("overlay", 0, "could not be read: ValueError: Unknown content encoding: lzma"),
    }  # fmt: skip
    assert re.search(rf"Aggregated +{len(rows)} +{len(rows)}\(100.00%\)", text)


def locusts_of(process: psutil.Process) -> list[psutil.Process]:
    """Its children that are Locust; others may be there, of other tests."""
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended, waited for or not
            if "locust" in child.cmdline():
                found.append(child)
    return found


def test_a_worker_that_dies_under_load_fails_the_test(repo_root: Path, photos: Path) -> None:
    """Locust itself goes on with the other one, and so with half of the users."""
    killed: list[int] = []

    def kill_one(number: int, photo: bytes) -> bytes:
        if number == 8 and not killed:  # master and both workers have had their quiet photo
            [master] = locusts_of(psutil.Process())
            one, _ = locusts_of(master)
            killed.append(one.pid)
            one.send_signal(signal.SIGKILL)
        return photo

    with service_over_http(kill_one) as url:
        code, text = run_locust(
            repo_root, url, photos, *load_processes(2), "--users", "2", "--run-time", "8s"
        )
    assert code == 1, text
    assert killed
    assert "failed to send heartbeat, setting state to missing" in text
    assert "error: no last report from" in text


@pytest.mark.parametrize("workers", [False, True], ids=["one", "workers"])
def test_answers_that_cannot_be_written_down_fail_the_test(
    repo_root: Path, photos: Path, workers: bool
) -> None:
    """A full disk; the master of workers has nothing to write, and sees only what they tell it."""
    processes = (*load_processes(2), "--users", "2") if workers else ()
    with service_over_http(lambda _, photo: photo) as url:
        code, text = run_locust(repo_root, url, photos, "--answers", "/dev/full", *processes)
    assert code == 1, text
    assert re.search(
        r"error: [1-9]\d* answers were not written down: OSError: .*No space left on device", text
    ), text
