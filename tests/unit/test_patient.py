"""Who comes again after a 503 judges it first; in a process of its own, as Locust patches it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.test_answers import FULL_QUEUE

TWO_ANSWERS = """
import contextlib, sys
from types import SimpleNamespace

from locust.env import Environment

from benchmarks import load_users
from benchmarks.load_record import Record
from benchmarks.load_users import RoomsUser
from benchmarks.photos import Photo

class Response(SimpleNamespace):
    headers, error, content = {}, None, b""

    def __init__(self, status_code, text):
        super().__init__(status_code=status_code, text=text, request_meta={"response_length": 0})

    def failure(self, wrong):
        print("failure:", wrong)

    def success(self):
        print("success")

full, broken = sys.argv[1:]
answers = [Response(503, full), Response(503, broken), Response(400, "no such photo")]
waits = []
load_users.gevent.sleep = waits.append
RoomsUser.patient, RoomsUser.host, RoomsUser.path, RoomsUser.headers = True, "http://127.0.0.1:1", "/", {}
RoomsUser.record = Record(None, keep_rows=True)
user = RoomsUser(Environment(user_classes=[RoomsUser]))
user.client = SimpleNamespace(post=lambda *_, **__: contextlib.nullcontext(answers.pop(0)))
user.send(Photo("a", b"", 2, 3), "png")
print(len(waits), *[(row.status, row.wrong) for row in RoomsUser.record.rows], sep="\\n")
"""


def test_a_full_server_is_right_and_a_broken_handler_wrong_though_both_are_asked_again(
    repo_root: Path,
) -> None:
    broken = '{"code": 503, "type": "InternalServerException", "message": "Prediction failed"}'
    done = subprocess.run(
        [sys.executable, "-c", TWO_ANSWERS, FULL_QUEUE, broken],
        cwd=repo_root,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.splitlines() == [
        "success",
        f"failure: status 503: {broken}",
        "failure: status 400: no such photo",
        "2",
        "(503, None)",
        f"(503, {f'status 503: {broken}'!r})",
        "(400, 'status 400: no such photo')",
    ], done.stderr
