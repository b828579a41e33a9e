"""What the handler says of its answers: times of each step, the request's id, lines for the metrics and the log."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

import pytest

from segserve.segmenter import Segmenter
from tests.integration.calling import Caller, photo

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def serve(colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Caller:
    return Caller(colour_segmenter, monkeypatch, {})


def test_a_request_has_the_clients_id_or_the_servers(serve: Caller) -> None:
    serve.context.request_ids = {0: "uuid-0", 1: "uuid-1"}
    sent = {"body": photo(RED, BLUE)}
    answers = serve(sent, sent, headers=[{"X-Request-ID": "order-7"}, {"X-Request-Id": "two words"}])
    assert [headers["x-segserve-request-id"] for _, headers, _ in answers] == ["order-7", "uuid-1"]


def test_time_in_the_queue_stands_beside_the_steps(serve: Caller) -> None:
    start = f"t={time.time() - 2:.3f}"
    queued, other = serve(*[{"body": photo(RED, BLUE)}] * 2, headers=[{"X-Request-Start": start}])
    steps = dict(step.split(";dur=") for step in queued[1]["server-timing"].split(", "))
    assert list(steps) == ["queue", "decode", "engine", "mask", "encode", "batch_wait", "total"]
    assert 1999 <= float(steps["queue"]) < 60_000
    assert float(steps["total"]) < float(steps["queue"])  # it is not in the total
    assert "queue" not in other[1]["server-timing"]


def test_waiting_for_the_others_is_what_its_own_steps_leave_of_the_total(
    serve: Caller, colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_for_the_small_one(logits_chw: Any, prepared: Any) -> Any:
        if prepared.geometry.photo_height == 40:
            time.sleep(0.2)
        return Segmenter.labels(colour_segmenter, logits_chw, prepared)

    monkeypatch.setattr(colour_segmenter, "labels", slow_for_the_small_one)
    slow, quick = serve({"body": photo(RED, BLUE, 40)}, {"body": photo(RED, BLUE)})
    waited_ms = [
        float(dict(step.split(";dur=") for step in headers["server-timing"].split(", "))["batch_wait"])
        for _, headers, _ in (slow, quick)
    ]
    assert waited_ms[1] >= 199
    assert waited_ms[1] > waited_ms[0]


def test_a_batch_is_logged_in_one_piece(serve: Caller, caplog: pytest.LogCaptureFixture) -> None:
    serve.context.request_ids = {0: "uuid-0", 1: "uuid-1"}
    with caplog.at_level(logging.INFO):
        serve({"body": photo(RED, BLUE, 30, 50)}, {"body": b"\x89PNG no photo"})
    [message] = [record.getMessage() for record in caplog.records]
    lines = message.splitlines()
    assert re.fullmatch(
        r"answered request=uuid-0 server_id=uuid-0 model=m version=3\.1 status=200 bytes_in=\d+ photo=50x30 "
        r"total_ms=\d+\.\d",
        lines[0],
    )
    assert lines[1].startswith(
        "answered request=uuid-1 server_id=uuid-1 model=m version=3.1 status=400 bytes_in=13 "
    )
    assert all(line.startswith("[METRICS]segserve_") for line in lines[2:])
    assert "PNG" not in message
    shares = re.findall(r"class_share\.unit:(\S+?)\|#model:m,version:3\.1,class:(\w+)", message)
    assert {name: float(share) for share, name in shares} == {"wall": 0.5, "floor": 0, "ceiling": 0.5}
