"""Management calls against a server of a few lines: what is asked, what is made of the answer, and of refusals."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from threading import Timer

import httpx
import pytest

from deploy.management import Management
from segserve.errors import ServerError, Unreachable, UsageError

Handler = Callable[[httpx.Request], httpx.Response]


def management(handler: Handler, token: Callable[[str], str | None] = lambda _: None) -> Management:
    made = Management("nowhere.sock", token)
    made._http = httpx.Client(transport=httpx.MockTransport(handler), base_url="http://management")
    return made


def model(version: str, *statuses: str, pending: int = 0) -> dict[str, object]:
    workers = [
        {"status": status, "pid": 100 + n if status == "READY" else -1} for n, status in enumerate(statuses)
    ]
    return {
        "modelName": "rooms", "modelVersion": version, "modelUrl": f"rooms-{version}", "workers": workers,
        "jobQueueStatus": {"remainingCapacity": 9, "pendingRequests": pending},
    }  # fmt: skip


def test_versions_are_read_with_their_workers_and_queues() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/models/rooms/all"
        return httpx.Response(200, json=[model("1.0", "READY", "UNLOADED", pending=3), model("2.0")])

    one, two = management(answer).versions("rooms")
    assert (one.version, one.workers_ready, one.workers, one.worker_pids) == ("1.0", 1, 2, (100,))
    assert (one.pending, one.file, one.ready) == (3, "rooms-1.0", True)
    assert not two.ready


def test_a_model_that_is_not_there_has_no_versions() -> None:
    assert management(lambda _: httpx.Response(404, json={"message": "no"})).versions("rooms") == []


def test_registering_does_not_wait_and_names_the_model() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, dict(request.url.params)))
        return httpx.Response(202, json={"status": "Processing worker updates..."})

    management(answer).register("rooms-2.0", "rooms")
    assert seen == [
        ("POST", "/models", {"url": "rooms-2.0", "model_name": "rooms", "synchronous": "false"}),
    ]


@pytest.mark.parametrize(
    ("status", "advice"),
    [(409, "another with export.build --version"), (404, "deploy.status"), (500, "ts_log.log")],
)
def test_a_refusal_says_what_the_server_said_and_what_to_do(status: int, advice: str) -> None:
    refusing = management(
        lambda _: httpx.Response(status, json={"code": status, "message": "that cannot be"})
    )
    with pytest.raises(
        ServerError, match=f"would not register a.mar as rooms: {status} that cannot be; .*{advice}"
    ):
        refusing.register("a.mar", "rooms")


def test_unregistering_what_is_not_there_is_no_error() -> None:
    management(lambda _: httpx.Response(404, json={"message": "no"})).unregister("rooms", "1.0")


@pytest.mark.parametrize("then", [404, 200])
def test_unregistering_that_stumbles_over_a_worker_is_asked_once_more(then: int) -> None:
    said = 'Cannot invoke "org.pytorch.serve.job.Job.isControlCmd()" because "job" is null'
    answers = iter([500, then])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=[model("1.0", "UNLOADED")])
        return httpx.Response(next(answers), json={"message": said})

    management(answer).unregister("rooms", "1.0")
    assert not list(answers)


def test_unregistering_that_fails_twice_is_told() -> None:
    failing = management(
        lambda request: httpx.Response(404 if request.method == "GET" else 500, json={"message": "no"})
    )
    with pytest.raises(ServerError, match=r"would not unregister rooms 1\.0: 500 no"):
        failing.unregister("rooms", "1.0")


def test_unregistering_ends_when_the_workers_have_ended() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if request.method == "GET":
            told = model("1.0", "READY") | {"workers": [{"status": "READY", "pid": worker.pid}]}
            return httpx.Response(200, json=[told])
        Timer(0.3, worker.terminate).start()  # as TorchServe does it: the answer comes first
        return httpx.Response(200, json={"status": "unregistered"})

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as worker:
        try:
            management(answer).unregister("rooms", "1.0")
            assert asked == ["GET", "DELETE"]
            assert worker.wait(timeout=0) == -signal.SIGTERM  # has ended already
        finally:
            worker.kill()


def test_an_expired_token_is_renewed_once() -> None:
    keys = {"API": "api", "management": "old"}
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        given = request.headers["authorization"].removeprefix("Bearer ")
        asked.append((request.url.path, given))
        if request.url.path == "/token":
            assert given == "api"
            keys["management"] = "new"
            return httpx.Response(200, json={})
        if given != "new":
            return httpx.Response(
                400, json={"message": "Token Authorization failed. Token is either incorrect"}
            )
        return httpx.Response(200, json={"models": [{"modelName": "rooms"}]})

    assert management(answer, keys.get).names() == ["rooms"]
    assert [path for path, _ in asked] == ["/models", "/token", "/token", "/models"]


def test_a_wrong_api_key_is_an_error_and_no_loop() -> None:
    refusing = management(
        lambda _: httpx.Response(400, json={"message": "Token Authorization failed"}), lambda _: "x"
    )
    with pytest.raises(ServerError, match="no new management token"):
        refusing.names()


def test_waiting_ends_with_the_reason_when_there_is_no_use_in_it() -> None:
    loading = management(lambda _: httpx.Response(200, json=[model("2.0", "UNLOADED")]))
    with pytest.raises(ServerError, match=r"rooms 2.0 cannot start: it crashed"):
        loading.wait_ready("rooms", "2.0", 100, lambda: "it crashed")
    with pytest.raises(ServerError, match=r"not READY after 0 s .*0 of 1"):
        loading.wait_ready("rooms", "2.0", 0.0)


def test_draining_waits_for_the_queue() -> None:
    waiting = [5, 3, 1, 0]

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, json=[model("1.0", pending=waiting.pop(0) if len(waiting) > 1 else waiting[0])]
        )

    assert management(answer).drain("rooms", "1.0", timeout_s=60, settle_s=0.1)
    assert waiting == [0]
    never = management(lambda _: httpx.Response(200, json=[model("1.0", pending=1)]))
    assert not never.drain("rooms", "1.0", timeout_s=0.2, settle_s=0.1)


def test_draining_waits_for_workers_that_compute_though_nothing_is_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used_s, busy, asked = 0.0, True, set[tuple[int, ...]]()

    def processor_time_s(pids: tuple[int, ...]) -> float:
        nonlocal used_s
        asked.add(pids)
        used_s += busy
        return used_s

    monkeypatch.setattr("deploy.management.processor_time_s", processor_time_s)
    computing = management(lambda _: httpx.Response(200, json=[model("1.0", "READY")]))
    assert not computing.drain("rooms", "1.0", timeout_s=0.3, settle_s=0.1)
    busy = False
    assert computing.drain("rooms", "1.0", timeout_s=60, settle_s=0.1)
    assert asked == {(100,)}


def test_who_does_not_answer_is_unreachable_and_so_is_one_whose_tokens_are_gone() -> None:
    """A stopped server takes its key file along."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused", request=request)

    with pytest.raises(Unreachable, match=r"does not answer \(\[Errno 111\] Connection refused\)"):
        management(refuse).names()

    def no_token(kind: str) -> str:
        raise UsageError(f"key_file.json holds no {kind} token")

    with pytest.raises(Unreachable, match=r"does not answer \(key_file\.json holds no management token\)"):
        management(refuse, no_token).names()
