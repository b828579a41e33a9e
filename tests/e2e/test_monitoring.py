"""What a real server tells Prometheus: of every step, model and version, and all that alarms and dashboard ask for."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from benchmarks.photos import Photo
from deploy.metrics import STEPS, Scrape, scrape
from deploy.processes import wait_until
from segserve.labels import ROOM_CLASSES
from tests.e2e.serving import Server, at_once, send_unreadable_form
from tests.monitoring import alarm_queries, dashboard_queries, labels_of, metrics_of

PATIENCE_S = 60.0


def when(server: Server, holds: Callable[[Scrape], bool]) -> Scrape:
    """/metrics, once it says so: what a worker prints arrives a moment after its answer."""
    looks: list[Scrape] = []

    def looked() -> bool:
        looks.append(scrape(server.running.metrics_url))
        return holds(looks[-1])

    assert wait_until(looked, PATIENCE_S), looks[-1]
    return looks[-1]


def answers(look: Scrape, before: Scrape, model: str, version: str) -> dict[int, float]:
    """Those since `before`."""
    earlier = before.answers(model, version)
    counts = {
        status: count - earlier.get(status, 0) for status, count in look.answers(model, version).items()
    }
    return {status: count for status, count in counts.items() if count}


def test_each_model_and_version_has_its_own_numbers(server: Server, room: Photo) -> None:
    before = scrape(server.running.metrics_url)
    for version, count in (("1.0", 2), ("2.0", 3)):
        for _ in range(count):
            assert server.post(room.jpeg, f"/predictions/rooms/{version}").status_code == 200
    server.post(b"no image", "/predictions/rooms/2.0")
    look = when(server, lambda look: answers(look, before, "rooms", "2.0") == {200: 3, 400: 1})
    assert answers(look, before, "rooms", "1.0") == {200: 2}
    assert answers(look, before, "batched", "1.0") == {}
    for version, images, requests in (("1.0", 2, 2), ("2.0", 3, 4)):
        assert look.images("rooms", version) - before.images("rooms", version) == images
        spent = {s: look.steps("rooms", version, s).minus(before.steps("rooms", version, s)) for s in STEPS}
        assert spent["total"].count == spent["batch_wait"].count == requests
        assert [spent[step].count for step in ("engine", "mask", "encode")] == [images] * 3
        assert spent["queue"].count == 0  # nobody said when it began
        own = ("decode", "engine", "mask", "encode", "batch_wait")
        assert sum(spent[step].sum_s for step in own) == pytest.approx(spent["total"].sum_s, rel=0.01)
        assert 0 < spent["engine"].mean_s() < 60
        assert 0 < spent["total"].quantile_s(0.5) <= spent["total"].quantile_s(1.0)
        shares = look.class_shares("rooms", version)
        assert sorted(shares) == sorted(ROOM_CLASSES)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert look.class_shares("rooms", "1.0") != look.class_shares("rooms", "2.0")


def test_batches_are_counted_by_their_size(server: Server, room: Photo) -> None:
    def calls_of_eight(look: Scrape) -> float:
        return sum(
            sample.value
            for sample in look.samples
            if sample.name == "segserve_batches_total"
            and (sample.labels["model"], sample.labels["size"]) == ("batched", "8")
        )

    before = scrape(server.running.metrics_url)
    assert {answer.status_code for answer in at_once(server, [room.jpeg] * 8, "/predictions/batched")} == {
        200
    }
    look = when(server, lambda look: look.images("batched", "1.0") - before.images("batched", "1.0") == 8)
    assert calls_of_eight(look) - calls_of_eight(before) == 1


def test_waiting_before_the_server_is_known_where_a_proxy_says_when_it_began(
    server: Server, room: Photo
) -> None:
    before = scrape(server.running.metrics_url)
    headers = {"Content-Type": "image/jpeg", "X-Request-Start": f"t={time.time() - 3:.3f}"}
    answer = server.http.post("/predictions/rooms/1.0", content=room.jpeg, headers=headers)
    waited_ms = float(re.findall(r"\bqueue;dur=([\d.]+)", answer.headers["server-timing"])[0])
    assert waited_ms >= 2999
    queue = before.steps("rooms", "1.0", "queue")
    look = when(server, lambda look: look.steps("rooms", "1.0", "queue").minus(queue).count == 1)
    assert look.steps("rooms", "1.0", "queue").minus(queue).sum_s == pytest.approx(waited_ms / 1e3, abs=1e-3)


def test_what_alarms_and_dashboard_ask_for_is_there(server: Server, room: Photo) -> None:
    before = scrape(server.running.metrics_url).server_errors()
    send_unreadable_form(server, b"")
    assert server.post(room.jpeg, "/predictions/none").status_code == 404
    assert server.post(room.jpeg, "/predictions/rooms/1.0").status_code == 200
    when(server, lambda look: look.server_errors() > before and look.images("rooms", "1.0") > 0)
    text = httpx.get(f"{server.running.metrics_url}/metrics").text
    there = {
        name: set(re.findall(r"(\w+)=\"", labels)) for name, labels in re.findall(r"(?m)^(\w+){(.*)}", text)
    }
    queries = alarm_queries() + dashboard_queries()
    assert metrics_of(queries) <= set(there)
    for metric in metrics_of(queries):
        assert labels_of(queries, metric) <= there[metric], metric
    grouped = {
        label for query in queries for listed in re.findall(r"\b(?:by|on) \(([\w, ]+)\)", query)
        for label in listed.split(", ")
    }  # fmt: skip
    assert grouped - {"instance"} <= set().union(*there.values())


def test_only_what_a_worker_shall_answer_counts_as_a_request(server: Server, room: Photo) -> None:
    """Else SegserveNoWorker would come for forms that can't be read and for models that nobody has."""

    def of_torchserve(name: str) -> float:
        samples = scrape(server.running.metrics_url).samples
        return sum(sample.value for sample in samples if sample.name == name)

    # as the parser calls them: TorchServe says Requests4XX
    names = ("ts_inference_requests_total", "Requests4XX_total", "Requests5XX_total")
    before = {name: of_torchserve(name) for name in names}

    def more() -> list[float]:
        return [of_torchserve(name) - before[name] for name in names]

    send_unreadable_form(server, b"")
    for path in ("/predictions/none", "/predictions/rooms/9.9"):
        assert server.post(room.jpeg, path).status_code == 404
    assert more() == [0, 2, 1]
    assert server.post(b"no image", "/predictions/rooms/1.0").status_code == 400
    assert more() == [1, 3, 1]  # the worker's own refusals too


def test_a_worker_that_is_started_anew_says_so_under_its_old_name(server: Server) -> None:
    """What the alarm SegserveWorkerRestarts goes by: the gauge is set again, and no new one appears."""

    def load_ms() -> dict[str, float]:
        samples = scrape(server.running.metrics_url).samples
        found = {s.labels["WorkerName"]: s.value for s in samples if s.name == "WorkerLoadTime"}
        return {name: value for name, value in found.items() if name.endswith("rooms_2.0")}

    before = load_ms()  # of workers that are gone too: the version may have been registered more than once
    assert before
    with server.management() as management:
        [version] = management.get("/models/rooms/2.0").json()
        os.kill(version["workers"][0]["pid"], signal.SIGKILL)
    assert wait_until(lambda: load_ms() != before, PATIENCE_S)
    assert load_ms().keys() == before.keys()
    with server.management() as management:

        def ready() -> bool:
            [version] = management.get("/models/rooms/2.0").json()
            return [worker["status"] for worker in version["workers"]] == ["READY"]

        assert wait_until(ready, PATIENCE_S)
