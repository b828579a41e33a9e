"""The only worker is killed again and again while clients ask: every request is answered, and rightly.

Locally two kills. As the issue's bar has it, every 10 s for 2 minutes, with what was seen printed:

    KILLS=12 python -m pytest tests/e2e/test_worker_death.py -s
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photos import Photo
from deploy.client import AsyncClient, Client
from deploy.processes import exists, wait_until
from deploy.retry import Retry, again
from segserve.segmenter import Segmenter
from tests.e2e.conftest import serving
from tests.e2e.serving import Server, archive, start_options

pytestmark = pytest.mark.timeout(900)  # several starts each, which are patient with a busy machine

CRASHING_HANDLER = """
from pathlib import Path
from segmentation_handler import SegmentationHandler

class Crashing(SegmentationHandler):
    def initialize(self, context):
        super().initialize(context)
        segmenter, marker = self._service._segmenter, Path({marker!r})
        working = segmenter.engine

        class Engine:
            name, precision, device, provider = working.name, working.precision, working.device, working.provider
            crashed = False

            def __call__(self, images_nhwc):
                if self.crashed or marker.exists():
                    self.crashed = True
                    marker.unlink(missing_ok=True)
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
                return working(images_nhwc)

        segmenter.engine = Engine()
"""

SLOW_HANDLER = """
import os, time
from pathlib import Path

class Slow:
    def initialize(self, context): pass
    def handle(self, data, context):
        if not Path({folder!r}, "hurry").exists():
            Path({folder!r}, "pid").write_text(str(os.getpid()))
            Path({folder!r}, "pid").rename(Path({folder!r}, "at-work"))
            time.sleep(600)
        for place in range(len(data)):
            context.set_response_content_type(place, "image/png")
        return [bytes(item["body"]) for item in data]
"""

KILLS = int(os.environ.get("KILLS", "2"))
EVERY_S = 10.0 if KILLS > 2 else 3.0
CALLERS = 6
PATIENT_S = 120.0


def crashing_mar(source: Path, target: Path, marker: Path) -> None:
    """The same model, whose engine fails for good as soon as there is a file `marker`. It takes the file away."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "MAR-INF/MANIFEST.json":
                content = content.replace(b"segmentation_handler.py", b"crashing_handler.py")
            new.writestr(name, content)
        new.writestr("crashing_handler.py", CRASHING_HANDLER.format(marker=str(marker)))


@pytest.fixture(scope="module")
def mortal(
    store: Path, tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[Server]:
    """`rooms` 1.0 with its one worker, on a server of its own."""
    run_dir = tmp_path_factory.mktemp("run")
    with serving(run_dir, start_options(store, run_dir, free_ports(2), ["rooms=rooms-1.0.mar"])) as server:
        yield server


def ready_pid(server: Server) -> int:
    """Of the worker, 0 while it is not READY."""
    with server.management() as client:
        [worker] = client.get("/models/rooms").json()[0]["workers"]
    return int(worker["pid"]) if worker["status"] == "READY" else 0


def kill(server: Server) -> float:
    """SIGKILL the worker. Returns: seconds until another one was READY."""
    assert wait_until(lambda: ready_pid(server) > 0, PATIENT_S)
    pid = ready_pid(server)
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    assert wait_until(lambda: not exists(pid) and ready_pid(server) not in (0, pid), PATIENT_S)
    return time.monotonic() - started


def labels_in(body: bytes, folder: Path) -> NDArray[np.uint8]:
    path = folder / f"{threading.get_ident()}.png"
    path.write_bytes(body)
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_request_is_answered_rightly_while_the_worker_is_killed(
    mortal: Server, rooms: tuple[Photo, ...], offline: Segmenter, tmp_path: Path
) -> None:
    masks = [offline.segment(photo.jpeg) for photo in rooms]
    over, durations = threading.Event(), list[float]()

    def ask(client: Client, first: int) -> None:
        for n in itertools.count(first):
            if over.is_set():
                return
            asked_at = time.monotonic()
            body = client.segment(rooms[n % len(rooms)].jpeg, "png")  # raises for anything but an answer
            durations.append(time.monotonic() - asked_at)
            np.testing.assert_array_equal(labels_in(body, tmp_path), masks[n % len(rooms)])
        raise AssertionError("never gets here")

    recoveries = []
    with Client(mortal.running.url, "rooms") as client, ThreadPoolExecutor(CALLERS) as pool:
        asking = [pool.submit(ask, client, n) for n in range(CALLERS)]
        try:
            for _ in range(KILLS):
                recoveries.append(kill(mortal))
                over.wait(max(0.0, EVERY_S - recoveries[-1]))
            many = wait_until(lambda: len(durations) > 10 * KILLS or any(c.done() for c in asking), PATIENT_S)
        finally:
            over.set()
        for call in asking:
            call.result(PATIENT_S)
    print(f"\n{len(durations)} requests, all right; the longest took {max(durations):.1f} s")
    print(f"{KILLS} kills, READY again after {', '.join(f'{s:.1f}' for s in recoveries)} s")
    assert many


def test_an_async_client_is_served_through_a_kill(
    mortal: Server, rooms: tuple[Photo, ...], offline: Segmenter, tmp_path: Path
) -> None:
    masks = [offline.segment(photo.jpeg) for photo in rooms]

    async def ask_all() -> Sequence[bytes]:
        async with AsyncClient(mortal.running.url, "rooms") as client:
            calls = [asyncio.create_task(client.segment(photo.jpeg, "png")) for photo in rooms * 6]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(kill, mortal)
            return await asyncio.gather(*calls)

    for body, mask in zip(asyncio.run(ask_all()), masks * 6, strict=True):
        np.testing.assert_array_equal(labels_in(body, tmp_path), mask)


def test_what_torchserve_answers_for_a_killed_batch_is_what_the_client_knows(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    """Without retries: if this answer ever changes, the policy has to. What waits in the queue is answered later."""
    (tmp_path / "store").mkdir()
    archive(tmp_path / "store" / "slow.mar", "slow", SLOW_HANDLER.format(folder=str(tmp_path)))
    options = start_options(tmp_path / "store", tmp_path / "run", free_ports(2), ["slow=slow.mar"])
    with serving(tmp_path / "run", options) as server, ThreadPoolExecutor(2) as pool:
        at_work = pool.submit(server.post, b"photo", "/predictions/slow")
        assert wait_until((tmp_path / "at-work").exists, PATIENT_S)
        queued = pool.submit(server.post, b"photo", "/predictions/slow")
        (tmp_path / "hurry").touch()  # from the next one on
        os.kill(int((tmp_path / "at-work").read_text()), signal.SIGKILL)
        killed = at_work.result(PATIENT_S)
        assert killed.status_code in (500, 507)
        assert killed.json()["message"] == "Worker died."
        assert again(killed)
        assert (queued.result(PATIENT_S).status_code, queued.result().content) == (200, b"photo")


def test_a_request_that_torchserve_loses_is_sent_again(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    """TorchServe 0.12 never answers what it was gathering into a batch when the worker died."""
    (tmp_path / "store").mkdir()
    (tmp_path / "hurry").touch()
    handler = SLOW_HANDLER.format(folder=str(tmp_path))
    archive(tmp_path / "store" / "slow.mar", "slow", handler, {"batchSize": 8, "maxBatchDelay": 5000})
    options = start_options(tmp_path / "store", tmp_path / "run", free_ports(2), ["slow=slow.mar"])
    with (
        serving(tmp_path / "run", options) as server,
        Client(server.running.url, "slow", retry=Retry(answer_s=20.0)) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(client.segment, b"photo", "png")
        # counted when it comes in, and taken out of the queue at once
        metrics = f"{server.running.metrics_url}/metrics"
        assert wait_until(lambda: "ts_inference_requests_total{" in httpx.get(metrics).text, PATIENT_S)
        os.kill(server.worker_pids("slow")[0], signal.SIGKILL)
        assert asked.result(PATIENT_S) == b"photo"


def test_an_engine_that_is_broken_costs_its_worker_and_no_request(
    store: Path,
    tmp_path: Path,
    free_ports: Callable[[int], list[int]],
    rooms: tuple[Photo, ...],
    offline: Segmenter,
) -> None:
    marker, run_dir = tmp_path / "crash", tmp_path / "run"
    (tmp_path / "store").mkdir()
    crashing_mar(store / "rooms-1.0.mar", tmp_path / "store" / "rooms.mar", marker)
    options = start_options(tmp_path / "store", run_dir, free_ports(2), ["rooms=rooms.mar"])
    with serving(run_dir, options) as server, Client(server.running.url, "rooms") as client:
        pid = ready_pid(server)
        marker.touch()
        with ThreadPoolExecutor(CALLERS) as pool:
            bodies = list(pool.map(lambda photo: client.segment(photo.jpeg, "png"), rooms))
        for body, photo in zip(bodies, rooms, strict=True):
            np.testing.assert_array_equal(labels_in(body, tmp_path), offline.segment(photo.jpeg))
        assert not marker.exists()
        assert not exists(pid)
        log = Path(server.running.log_dir, "model_log.log").read_text()
        assert "the engine fails on every image: CUDA error: an illegal memory access" in log
