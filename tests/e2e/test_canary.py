"""Canaries with real nginx before TorchServe: the share holds, switching loses nothing, what can't be is refused."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.photos import Photo
from deploy.canary import clear_canary, set_canary
from deploy.client import Client
from deploy.front_process import Front, front_running
from deploy.router import Router
from segserve.errors import CheckFailed, ServerError
from segserve.segmenter import Segmenter
from tests.e2e.fronts import NEEDS_NGINX, front_of
from tests.e2e.serving import Server, labels_of, run

pytestmark = NEEDS_NGINX
VERSION = "x-segserve-version"
HTTP = httpx.Client(timeout=120)


@pytest.fixture(scope="module")
def front(server: Server, free_ports: Callable[[int], list[int]]) -> Iterator[Front]:
    with front_of(server.running.run_dir, free_ports(1)[0]) as front:
        yield front


@pytest.fixture(autouse=True)
def _off(server: Server, front: Front) -> Iterator[None]:
    yield
    clear_canary(server.running, "rooms")


@pytest.fixture(scope="module")
def expected(room: Photo, offline_versions: Mapping[str, Segmenter]) -> dict[str, NDArray[np.uint8]]:
    masks = {version: segmenter.segment(room.jpeg) for version, segmenter in offline_versions.items()}
    assert (masks["1.0"] != masks["2.0"]).any()
    return masks


def post(
    front: Front, image: bytes, path: str = "/predictions/rooms", name: str | None = None
) -> httpx.Response:
    headers = {"Accept": "application/x-npy", **({"X-Request-ID": name} if name else {})}
    return HTTP.post(front.url + path, content=image, headers=headers)


def versions(front: Front, image: bytes, count: int, path: str = "/predictions/rooms") -> list[str]:
    """Which version answered each of so many requests; their ids, and so the draw, are the same each time."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: post(front, image, path, f"draw-{number}"), range(count)))
    assert {answer.status_code for answer in answers} == {200}
    return [answer.headers[VERSION] for answer in answers]


def test_the_share_holds_and_each_mask_is_of_the_version_that_the_answer_names(
    server: Server, front: Front, room: Photo, expected: Mapping[str, NDArray[np.uint8]]
) -> None:
    assert set(versions(front, room.jpeg, 20)) == {"1.0"}
    set_canary(server.running, "rooms", "2.0", 0.25)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: post(front, room.jpeg, name=f"n{number}"), range(300)))
    counts = Counter(answer.headers[VERSION] for answer in answers)
    assert abs(counts["2.0"] - 75) <= 4 * (300 * 0.25 * 0.75) ** 0.5  # four standard deviations
    assert counts["1.0"] + counts["2.0"] == 300
    for answer in answers:
        assert (labels_of(answer) == expected[answer.headers[VERSION]]).all()


def test_an_id_meets_the_same_version_again(server: Server, front: Front, room: Photo) -> None:
    set_canary(server.running, "rooms", "2.0", 0.5)
    first = versions(front, room.jpeg, 40)
    assert set(first) == {"1.0", "2.0"}
    assert versions(front, room.jpeg, 40) == first


def test_a_query_goes_along_and_a_named_version_is_never_changed(
    server: Server, front: Front, room: Photo, expected: Mapping[str, NDArray[np.uint8]]
) -> None:
    set_canary(server.running, "rooms", "2.0", 1.0)
    invoked = httpx.post(f"{front.url}/models/rooms/invoke?format=npy", content=room.jpeg, timeout=120)
    assert invoked.headers[VERSION] == "2.0"
    assert (labels_of(invoked) == expected["2.0"]).all()
    for pinned in ("1.0", "2.0"):
        assert set(versions(front, room.jpeg, 5, f"/predictions/rooms/{pinned}")) == {pinned}
    batched = post(front, room.jpeg, "/predictions/batched")  # another model
    assert batched.headers[VERSION] == "1.0"


def test_a_photo_sent_by_plain_curl_is_answered(
    front: Front, room: Photo, expected: Mapping[str, NDArray[np.uint8]]
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/x-npy"}
    answer = HTTP.post(f"{front.url}/predictions/rooms", content=room.jpeg, headers=headers)
    assert (labels_of(answer) == expected["1.0"]).all()  # TorchServe alone answers 500


def test_on_and_off_under_load_loses_nothing(server: Server, front: Front, room: Photo) -> None:
    stop = threading.Event()

    def client(number: int) -> list[tuple[int, str]]:
        got = []
        with httpx.Client(timeout=120) as http:
            while not stop.is_set():
                answer = http.post(f"{front.url}/predictions/rooms", content=room.jpeg)
                got.append((answer.status_code, answer.headers.get(VERSION, "")))
        return got

    with ThreadPoolExecutor(16) as pool:
        clients = [pool.submit(client, number) for number in range(16)]
        try:
            for _ in range(10):
                set_canary(server.running, "rooms", "2.0", 0.5)
                assert post(front, room.jpeg).status_code == 200
                clear_canary(server.running, "rooms")
                assert post(front, room.jpeg).headers[VERSION] == "1.0"  # it holds when it returns
        finally:
            stop.set()
        counts = Counter(answer for future in clients for answer in future.result())
    assert set(counts) == {(200, "1.0"), (200, "2.0")}, counts
    assert counts[200, "2.0"] >= 10


def test_the_command_switches_and_status_says_so(server: Server, front: Front, room: Photo) -> None:
    run_dir = server.running.run_dir
    on = run("deploy.front", "canary", "rooms", "2.0", "--share", "1", "--run-dir", run_dir)
    assert (on.returncode, on.stdout) == (0, "100.00% of rooms goes to 2.0\n")
    assert "100.00% of rooms to 2.0" in run("deploy.front", "status", "--run-dir", run_dir).stdout
    assert post(front, room.jpeg).headers[VERSION] == "2.0"
    off = run("deploy.front", "canary", "rooms", "--off", "--run-dir", run_dir)
    assert off.returncode == 0
    assert post(front, room.jpeg).headers[VERSION] == "1.0"


def test_what_cannot_be_a_canary_is_refused_and_changes_nothing(server: Server, front: Front) -> None:
    set_canary(server.running, "rooms", "2.0", 0.1)
    refusals = (
        (("rooms", "3.0"), "2.0 (1 READY)"),
        (("nothing", "1.0"), "no version"),
        (("rooms", "1.0"), "default"),
    )
    for (name, version), said in refusals:
        with pytest.raises(CheckFailed) as refused:
            set_canary(server.running, name, version, 0.5)
        assert said in str(refused.value)
    refused_command = run(
        "deploy.front", "canary", "rooms", "3.0", "--share", "0.5", "--run-dir", server.running.run_dir
    )
    assert refused_command.returncode == 1
    now = front_running(Path(server.running.run_dir))
    assert now is not None
    assert {name: (canary.version, canary.share) for name, canary in now.canaries.items()} == {
        "rooms": ("2.0", 0.1)
    }


def test_a_version_without_workers_is_refused(server: Server) -> None:
    with server.management() as management:
        try:
            scaled = "/models/rooms/2.0?min_worker=0&max_worker=0&synchronous=true"
            assert management.put(scaled).status_code == 200
            with pytest.raises(CheckFailed, match="no READY worker"):
                set_canary(server.running, "rooms", "2.0", 0.5)
        finally:
            back = "/models/rooms/2.0?min_worker=1&max_worker=1&synchronous=true"
            assert management.put(back).status_code == 200


def test_without_a_front_the_python_client_shares_out(
    server: Server, front: Front, room: Photo, expected: Mapping[str, NDArray[np.uint8]]
) -> None:
    run("deploy.front", "stop", "--run-dir", server.running.run_dir)
    try:
        with pytest.raises(ServerError, match=r"deploy\.front start"):
            set_canary(server.running, "rooms", "2.0", 0.5)
        clear_canary(server.running, "rooms")  # nothing to clear, so no error
    finally:
        port = str(front.settings.port)
        started = run("deploy.front", "start", "--run-dir", server.running.run_dir, "--port", port)
        assert started.returncode == 0, started.stderr
    url = server.running.url
    with Client(url, "rooms") as default, Client(url, "rooms/2.0") as canary, Client(url, "rooms/9") as gone:
        router = Router(default, canary, 0.3, seed=1)
        masks = [router.segment(room.jpeg, "npy") for _ in range(60)]
        failing = Router(default, gone, 1.0)
        assert failing.segment(room.jpeg, "npy") == default.segment(room.jpeg, "npy")
    assert failing.routed.failed == 1
    assert router.routed.default + router.routed.canary == 60
    assert router.routed.canary == masks.count(canary_mask(expected))
    assert 5 <= router.routed.canary <= 32


def canary_mask(expected: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """What 2.0 answers, as the file that npy is."""
    file = io.BytesIO()
    np.save(file, expected["2.0"])
    return file.getvalue()
