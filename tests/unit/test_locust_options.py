"""Options that change between two runs of one Locust; in a process of its own, as Locust patches it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ANOTHER_SLO = """
import sys
from types import SimpleNamespace

import gevent
from locust import events
from locust.env import Environment
from locust.runners import STATE_INIT

from benchmarks import load_end, locustfile
from benchmarks.load_record import Record
from benchmarks.load_users import RoomsUser
from tests.unit.test_answers import answered

options = SimpleNamespace(
    slo="", multipart=0.0, think_s=0.0, rate=0.0, model="rooms", formats="png", sharing_users=1, arrivals="poisson",
    user_classes=[], class_picker=False,
)
environment = Environment(user_classes=[RoomsUser], parsed_options=options)
environment.runner = SimpleNamespace(target_user_count=1, state=STATE_INIT, stop=lambda: print("stopped"))
environment.stats.log_request("POST", "png", 250, 900)
RoomsUser.record = Record(None, keep_rows=False)
load_end.register(environment, RoomsUser.record, locustfile.OBJECTIVES, ())

def a_run(slo):
    options.slo = slo
    environment.process_exit_code = None
    locustfile.begin(environment)
    RoomsUser.record.clear()
    RoomsUser.record.add(answered())
    gevent.sleep(0.01)
    events.quitting.fire(environment=environment)
    print(environment.process_exit_code, flush=True)

sys.stderr = sys.stdout
for slo in ("", sys.argv[1], "none.toml", ""):
    a_run(slo)
"""

QUIET_PHOTOS = """
from types import SimpleNamespace

from locust.env import Environment

from benchmarks import locustfile, progress
from benchmarks.load_users import RoomsUser

progress.TELL_EVERY_S = 0.0
RoomsUser.host, RoomsUser.photos, RoomsUser.send = "http://127.0.0.1:1", ("a", "b"), lambda *_: None
RoomsUser.masks = SimpleNamespace(require_content=lambda: None, make_ready=lambda _: None)
locustfile._learn(Environment(user_classes=[RoomsUser]))
"""


def said(repo_root: Path, script: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=repo_root, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_objectives_are_those_of_the_run_that_is_judged(repo_root: Path, tmp_path: Path) -> None:
    objectives = tmp_path / "slo.toml"
    objectives.write_text('[[objective]]\nname = "at once"\np50_ms = 1\n')
    assert said(repo_root, ANOTHER_SLO, str(objectives)) == [
        "None",
        "error: SLO 'at once': p50 was 250 ms, expected at most 1 ms",
        "1",
        "error: cannot read none.toml: No such file or directory",
        "stopped",
        "error: SLO 'at once': p50 was 250 ms, expected at most 1 ms",
        "2",
        "None",
    ]


def test_who_waits_for_the_load_hears_how_many_photos_were_sent(repo_root: Path) -> None:
    assert said(repo_root, QUIET_PHOTOS) == [
        "photos sent while nothing else runs: 0 of 2",
        "photos sent while nothing else runs: 1 of 2",
    ]
