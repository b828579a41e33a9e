"""Lines of the answers file: written whole, read back, counted from when the request was due."""

from __future__ import annotations

import math
import os
import zipfile
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest

from benchmarks.answers import (
    NO_ROOM,
    Answered,
    append,
    failure_share,
    goodput_per_s,
    mean_batch,
    no_room,
    percentiles_ms,
    read,
)
from segserve.answer import error_body
from segserve.errors import UsageError


def answered(**changes: Any) -> Answered:
    """A right mask that took 250 ms, 50 of them because it was sent late."""
    fields: dict[str, Any] = {
        "due": 100.0, "sent": 100.05, "done": 100.25, "status": 200, "wrong": None, "photo": "a", "format": "png",
        "body": "raw", "version": "1.0", "device": "cpu", "engine": "onnx", "batch_size": 2,
        "server_ms": {"engine": 12.5}, "bytes": 900,
    }  # fmt: skip
    return Answered(**{**fields, **changes})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    rows = [answered(), answered(status=0, wrong="no answer", version=None, batch_size=None, server_ms={})]
    file = os.open(tmp_path / "answers.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for row in rows:
        append(file, row)
    os.close(file)
    assert read(tmp_path / "answers.jsonl") == rows


def test_latency_counts_from_due_and_only_right_masks_are_good() -> None:
    assert answered().latency_ms == pytest.approx(250)
    assert answered().good
    assert not answered(wrong="another mask").good
    assert not answered(status=503).good


def test_counts() -> None:
    rows = [answered(done=100.05 + n / 10) for n in range(1, 101)] + [
        answered(status=500, wrong="status 500")
    ]
    found = percentiles_ms(rows)
    assert {name: round(value) for name, value in found.items()} == {"p50": 5050, "p95": 9550, "p99": 9950}
    assert goodput_per_s(rows, 20) == 5
    assert failure_share(rows) == pytest.approx(1 / 101)
    assert math.isnan(percentiles_ms([])["p50"])
    assert failure_share([]) == 0


def test_a_batch_counts_once_however_many_were_in_it() -> None:
    assert mean_batch([8] * 8 + [1] * 8) == pytest.approx(16 / 9)  # a batch of 8 and eight of 1
    assert mean_batch([4, 4, 4, 4]) == 4
    assert math.isnan(mean_batch([]))


FULL_QUEUE = (
    '{\n  "code": 503,\n  "type": "ServiceUnavailableException",\n  "message": "Model \\"rooms\\" Version 1.0 has no '
    'worker to serve inference request. Please use scale workers API to add workers. If this is a sequence inference, '
    'please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"\n}'
)  # fmt: skip


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (503, FULL_QUEUE, True),
        (503, FULL_QUEUE[:200], True),  # as much as a row keeps
        (503, '{"error": {"type": "Overloaded", "message": "40 requests are being served"}}', True),
        (503, '{"error": {"type": "FrontFault", "message": "a fault of the front"}}', False),
        (503, "Prediction failed", False),
        (503, "Invalid model predict output", False),
        (503, "number of batch response mismatched", False),
        (503, "", False),
        (500, FULL_QUEUE, False),
    ],
)
def test_only_a_full_server_asks_to_come_again(status: int, said: str, expected: bool) -> None:
    assert no_room(status, said) is expected


def test_the_words_are_those_of_this_torchserve_and_of_our_refusals(repo_root: Path) -> None:
    [jar] = [path for path in files("torchserve") or [] if path.name == "model-server.jar"]
    with zipfile.ZipFile(str(jar.locate())) as frontend:
        assert NO_ROOM[0].encode() in frontend.read("org/pytorch/serve/util/ApiUtils.class")
    front = (repo_root / "deploy/nginx/front.conf").read_text()
    assert front.count(f'return 503 \'{{"error": {{"type": {NO_ROOM[1]}') == 1
    assert NO_ROOM[1].encode() in error_body("Overloaded", "no memory")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nothing", "line 2"),
        ('{"due": 1}', "line 2"),
        (answered().line().replace('"raw"', '"form"'), "body is 'form'"),
        (answered().line().replace('"due": 100.0', '"due": 200.0'), "in this order"),
    ],
)
def test_other_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text(answered().line() + line)
    with pytest.raises(UsageError, match=said):
        read(tmp_path / "a.jsonl")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.jsonl"):
        read(tmp_path / "none.jsonl")
