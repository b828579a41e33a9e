"""A worker that hangs, and logs on a disk that is full: what the others notice of it, which is nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.photos import Photo
from deploy import processes, run_folder
from segserve.segmenter import Segmenter
from tests.e2e.conftest import serving
from tests.e2e.serving import archive, labels_of, start_options

pytestmark = pytest.mark.timeout(900)  # several starts each, which are patient with a busy machine

HANGS_ON_ONE = """
import threading
from pathlib import Path

class Hangs:
    def initialize(self, context): pass
    def handle(self, data, context):
        if any(bytes(item["body"]) == b"hang" for item in data):
            Path({marker!r}).touch()
            threading.Event().wait()
        return [bytes(item["body"]) for item in data]
"""


def test_a_worker_that_hangs_is_replaced_and_the_queue_behind_it_answered(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    store, run_dir, marker = tmp_path / "store", tmp_path / "run", tmp_path / "hangs"
    store.mkdir()
    handler = HANGS_ON_ONE.format(marker=str(marker))
    archive(store / "hangs.mar", "hangs", handler, {"responseTimeout": 3, "batchSize": 1})
    with serving(run_dir, start_options(store, run_dir, free_ports(2), ["hangs=hangs.mar"])) as server:
        [before] = server.worker_pids("hangs")
        url = server.running.url + "/predictions/hangs"
        with ThreadPoolExecutor(2) as pool:
            hanging = pool.submit(httpx.post, url, content=b"hang", timeout=120)
            assert processes.wait_until(marker.exists, timeout_s=60)
            behind = httpx.post(url, content=b"behind", timeout=120)
            assert hanging.result().status_code >= 500
        assert (behind.status_code, behind.content) == (200, b"behind")
        [now] = server.worker_pids("hangs")
        assert now != before
        assert not processes.exists(before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_logs_on_a_full_disk_stop_nothing(
    small_disk: Path,
    store: Path,
    tmp_path: Path,
    free_ports: Callable[[int], list[int]],
    room: Photo,
    offline: Segmenter,
) -> None:
    run_dir = run_folder.create(tmp_path / "run")
    (run_dir / run_folder.LOCK_FILE).touch()
    (run_dir / "logs").symlink_to(small_disk)
    with serving(run_dir, start_options(store, run_dir, free_ports(2), ["rooms=rooms-1.0.mar"])) as server:
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "filler").write_bytes(bytes(300_000))
        expected = offline.segment(room.jpeg)
        for _ in range(20):
            assert (labels_of(server.post(room.jpeg)) == expected).all()
