"""A rollout that goes by way of a canary: real nginx, real TorchServe, clients that post all the while."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.photos import Photo
from deploy.front_process import Front, front_running
from segserve.segmenter import Segmenter
from tests.e2e.fronts import NEEDS_NGINX, front_of
from tests.e2e.rollout_places import Place, Traffic, served_place

pytestmark = [NEEDS_NGINX, pytest.mark.timeout(900)]  # several starts, patient with a busy machine
CANARY = ("--canary", "0.5", "--canary-s", "5")


def canaries(place: Place) -> Mapping[str, object]:
    front: Front | None = front_running(place.run_dir)
    assert front is not None
    return front.canaries


def test_a_canary_gets_its_share_then_all(
    exported: Mapping[str, Path],
    tmp_path: Path,
    free_ports: Callable[[int], list[int]],
    room: Photo,
    offline: Segmenter,
) -> None:
    *ports, port = free_ports(3)
    with served_place(exported["1.0"] / "rooms.mar", tmp_path, ports) as place:
        alone = place.rollout(place.mar("2.0"), *CANARY)
        assert alone.returncode == 2  # before anything was registered
        assert "deploy.front start" in alone.stderr
        assert place.versions() == {"1.0": "default"}
        with front_of(place.run_dir, port) as front:
            through_front = dataclasses.replace(place.running, url=front.url)
            with Traffic(through_front, room.jpeg, offline) as traffic:
                done = place.rollout(place.mar("2.0"), *CANARY)
            assert done.returncode == 0, done.stderr
            assert place.versions()["2.0"] == "default"
            assert canaries(place) == {}
    answers = Counter(traffic.seen)
    assert {(status, right) for status, _, right in answers} == {(200, True)}
    order = [version for _, version, _ in traffic.seen]
    both = order[order.index("2.0") :]
    # Versions took turns before the new one had all: of the requests at the switch each client has only one.
    assert both.count("1.0") > 3
    assert both.count("2.0") > 3
