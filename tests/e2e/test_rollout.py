"""Rollouts on a real server: good ones lose nothing, bad ones leave everything as it was, interrupted ones too."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.photos import Photo
from deploy import processes, served
from segserve.segmenter import Segmenter
from tests import bad_versions
from tests.e2e.rollout_places import PATIENT, Place, Traffic, served_place
from tests.e2e.serving import begun, run, start_options

pytestmark = pytest.mark.timeout(900)  # several starts each, which are patient with a busy machine


@pytest.fixture
def place(
    exported: Mapping[str, Path], tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> Iterator[Place]:
    with served_place(exported["1.0"] / "rooms.mar", tmp_path, free_ports(2)) as place:
        yield place


@pytest.fixture
def token_place(
    exported: Mapping[str, Path], tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> Iterator[Place]:
    with served_place(exported["1.0"] / "rooms.mar", tmp_path, free_ports(2), "--auth", "token") as place:
        yield place


@pytest.fixture(scope="module")
def calm(
    exported: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    free_ports: Callable[[int], list[int]],
) -> Iterator[Place]:
    """For tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("calm")
    with served_place(exported["1.0"] / "rooms.mar", folder, free_ports(2)) as place:
        yield place


def test_a_good_version_comes_into_service_and_no_client_notices(
    place: Place, room: Photo, offline: Segmenter
) -> None:
    with Traffic(place.running, room.jpeg, offline) as traffic:
        done = place.rollout(place.mar("2.0"), "--json")
        after = len(traffic.seen)
        assert processes.wait_until(lambda: len(traffic.seen) >= after + 6, timeout_s=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["old"], found["new"]) == ("1.0", "2.0")
    assert found["probe"]["golden_agreement"] > 0.999
    assert found["shadow"]["overall"] == 0.0
    assert all(right for _, _, right in traffic.seen)
    versions = [version for _, version, _ in traffic.seen]
    assert set(versions) == {"1.0", "2.0"}
    assert versions[-1] == "2.0"
    assert place.versions() == {"2.0": "default"}
    folder = served.load(place.run_dir)["rooms"].files["2.0"]
    assert folder.startswith("rooms-2.0-")
    assert sorted(path.name for path in place.store.iterdir()) == [folder, "rooms.mar"]

    restarted = run("deploy.server", "stop", "--run-dir", place.run_dir)
    assert restarted.returncode == 0
    options = place.options[: place.options.index("--models")]
    began = run("deploy.server", "start", "--detach", *options, "--ready-timeout-s", "200", timeout_s=250)
    assert began.returncode == 0, began.stderr
    assert "serves rooms 2.0" in began.stdout
    assert place.versions() == {"2.0": "default"}

    again = place.rollout(place.mar("2.0"))
    assert again.returncode == 2
    assert "2.0 is there already" in again.stderr


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("crashes at load", "RuntimeError: the weights are not there"),
        ("wrong class order", "does not segment like its checkpoint"),
        ("one class", "does not segment like its checkpoint"),
        ("leaks", "leaks memory"),
        ("breaks later", r"rooms \(default\) answered 50[03]"),
    ],
)
def test_a_bad_version_is_taken_back(
    calm: Place, kind: str, reason: str, room: Photo, offline: Segmenter
) -> None:
    workers = calm.worker_pids()
    with Traffic(calm.running, room.jpeg, offline, clients=1) as traffic:
        done = calm.rollout(calm.mar("9.9", bad_versions.BAD[kind]))
    assert done.returncode == 1, done.stderr
    assert re.search(reason, done.stderr), done.stderr
    assert "rolled back: rooms 1.0 is in service, 9.9 is gone" in done.stderr
    assert "Traceback" not in done.stderr
    calm.assert_untouched(workers)
    if kind != "breaks later":  # that one broke when it was the default
        assert {(status, version) for status, version, _ in traffic.seen} == {(200, "1.0")}
        assert all(right for _, _, right in traffic.seen)


def test_a_version_that_hangs_is_given_up_and_its_process_ended(calm: Place) -> None:
    workers = calm.worker_pids()
    done = calm.rollout(calm.mar("9.9", bad_versions.HANGS_AT_LOAD), "--ready-timeout-s", "4")
    assert done.returncode == 1
    assert "not READY after 4 s" in done.stderr
    calm.assert_untouched(workers)


def test_a_slow_version_is_taken_back(calm: Place) -> None:
    workers = calm.worker_pids()
    done = calm.rollout(calm.mar("9.9", bad_versions.SLOW_BY_A_SECOND), "--max-slowdown", "3")
    assert done.returncode == 1
    assert "times as long as 1.0" in done.stderr
    calm.assert_untouched(workers)


def test_another_model_is_refused_with_a_picture(
    calm: Place, exported: Mapping[str, Path], tmp_path: Path
) -> None:
    workers = calm.worker_pids()
    done = calm.rollout(exported["2.0"] / "rooms.mar", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "the two versions disagree about" in done.stderr
    with Image.open(tmp_path / "out" / "rooms-2.0.jpg") as picture:
        assert picture.width > picture.height
    calm.assert_untouched(workers)


def test_with_tokens_the_old_version_can_be_kept_and_returned_to(token_place: Place) -> None:
    assert run("deploy.rollback", "--run-dir", token_place.run_dir).returncode == 2  # nothing was kept yet
    assert token_place.rollout(token_place.mar("2.0"), "--keep").returncode == 0
    assert token_place.versions() == {"1.0": "", "2.0": "default"}
    back = run("deploy.rollback", "--run-dir", token_place.run_dir)
    assert back.returncode == 0, back.stderr
    assert token_place.versions() == {"1.0": "default", "2.0": ""}
    status = run("deploy.status", "--run-dir", token_place.run_dir, "--json")
    assert status.returncode == 0, status.stderr
    rows = {row["version"]: row for row in json.loads(status.stdout)["versions"]}
    assert (rows["1.0"]["default"], rows["2.0"]["kept"]) == (True, True)

    assert (
        token_place.rollout(token_place.mar("3.0")).returncode == 0
    )  # what was kept goes when something newer comes
    assert token_place.versions() == {"3.0": "default"}
    after = served.load(token_place.run_dir)["rooms"]
    assert (after.default, list(after.files), after.kept) == ("3.0", ["3.0"], None)
    assert sorted(path.name for path in token_place.store.iterdir()) == [after.files["3.0"], "rooms.mar"]


def rolling_out(place: Place, mar: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    return begun("deploy.rollout", mar, "--run-dir", place.run_dir, *PATIENT, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_rollout_leaves_nothing_or_the_next_one_clears_up(
    place: Place, number: signal.Signals
) -> None:
    workers = place.worker_pids()
    mar = place.mar("9.9", bad_versions.HANGS_AT_LOAD)
    with rolling_out(place, mar) as process:
        assert processes.wait_until(lambda: "9.9" in place.versions(), timeout_s=100)
        status = run("deploy.status", "--run-dir", place.run_dir)
        assert status.returncode == 0  # a version that is being loaded is no reason to alarm anybody
        assert "a rollout of rooms 9.9 is at work" in status.stdout
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    if number == signal.SIGINT:
        assert process.returncode == 130, said
        assert "interrupted\nrolled back: rooms 1.0 is in service" in said
        place.assert_untouched(workers)
    else:
        status = run("deploy.status", "--run-dir", place.run_dir)
        assert status.returncode == 1
        assert "a rollout of rooms 9.9 was cut off" in status.stdout
    assert place.rollout(place.mar("2.0")).returncode == 0
    assert place.versions() == {"2.0": "default"}


@contextlib.contextmanager
def somebody_asks_for_1_0(place: Place, room: Photo) -> Iterator[None]:
    """Without a break, so that it does not come to rest."""
    over, url = threading.Event(), f"{place.running.url}/predictions/rooms/1.0"

    def ask() -> None:
        while not over.is_set():
            httpx.post(url, content=room.jpeg, timeout=60)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            over.set()
        asking.result()


def test_ctrl_c_while_the_old_version_goes_leaves_the_new_one_in_service(place: Place, room: Photo) -> None:
    with somebody_asks_for_1_0(place, room), rolling_out(place, place.mar("2.0")) as process:
        # written down before 1.0 drains
        assert processes.wait_until(
            lambda: served.load(place.run_dir)["rooms"].default == "2.0", timeout_s=200
        )
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "interrupted\nrooms 2.0 is in service; 1.0 will go with the next rollout" in said
    status = run("deploy.status", "--run-dir", place.run_dir)
    assert status.returncode == 0
    assert "a rollout of rooms 2.0 was cut off, when it was in service already" in status.stdout
    assert place.versions() == {"1.0": "", "2.0": "default"}
    assert place.rollout(place.mar("3.0")).returncode == 0
    assert place.versions() == {"3.0": "default"}
    folder = served.load(place.run_dir)["rooms"].files["3.0"]
    assert sorted(path.name for path in place.store.iterdir()) == [folder, "rooms.mar"]


def test_two_servers_roll_out_the_same_version_to_one_store(
    place: Place, free_ports: Callable[[int], list[int]], room: Photo
) -> None:
    run_dir = place.run_dir.with_name("other")
    options = start_options(place.store, run_dir, free_ports(2), ["rooms=rooms.mar"])
    try:
        began = run("deploy.server", "start", "--detach", *options, "--ready-timeout-s", "200", timeout_s=250)
        assert began.returncode == 0, began.stderr
        other = Place(run_dir, place.store, options, place.source)
        for one in (place, other):
            assert one.rollout(one.mar("2.0")).returncode == 0
        assert place.rollout(place.mar("3.0")).returncode == 0
        assert [one.versions() for one in (place, other)] == [{"3.0": "default"}, {"2.0": "default"}]
        file = served.load(other.run_dir)["rooms"].files["2.0"]
        assert (place.store / file / "model_spec.json").is_file()
        killed = other.worker_pids()
        processes.send(killed, signal.SIGKILL)  # the next worker loads that folder again
        # TorchServe loses a request that it hands to a worker which is just dying
        assert processes.wait_until(lambda: bool(other.worker_pids() - killed), timeout_s=100)
        assert processes.wait_until(
            lambda: (
                httpx.post(f"{other.running.url}/predictions/rooms", content=room.jpeg, timeout=60).is_success
            ),
            timeout_s=100,
        )
    finally:
        assert run("deploy.server", "stop", "--run-dir", run_dir).returncode == 0


def test_a_server_that_dies_in_the_middle_comes_back_as_it_was(place: Place) -> None:
    mar = place.mar("9.9", bad_versions.HANGS_AT_LOAD)
    with rolling_out(place, mar) as process:
        assert processes.wait_until(lambda: "9.9" in place.versions(), timeout_s=100)
        processes.send(processes.session_members(place.running.pid), signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "when it is started again, it serves rooms 1.0" in said
    options = place.options[: place.options.index("--models")]
    began = run("deploy.server", "start", "--detach", *options, "--ready-timeout-s", "200", timeout_s=250)
    assert began.returncode == 0, began.stderr
    place.assert_untouched(place.worker_pids())


def test_what_is_no_package_never_reaches_the_server(calm: Place, tmp_path: Path) -> None:
    torn = tmp_path / "torn.mar"
    torn.write_bytes(calm.source.read_bytes()[:5000])
    for mar, code in ((torn, 1), (tmp_path / "none.mar", 2)):
        done = calm.rollout(mar)
        assert done.returncode == code, done.stderr
        assert str(mar) in done.stderr
    calm.assert_untouched(calm.worker_pids())
