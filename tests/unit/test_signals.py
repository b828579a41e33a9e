"""SIGTERM and SIGHUP to a measurement: as Ctrl-C, so that nothing that it started stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import mar_server, mar_settings
from benchmarks.mar_settings import Settings
from benchmarks.signals import ASKING, as_ctrl_c
from deploy import launch, processes, run_folder

WAITS = """
import signal
from dataclasses import dataclass

from benchmarks.signals import as_ctrl_c
from segserve.cli import run

@dataclass(frozen=True)
class Config:
    pass

def main(_: Config) -> None:
    try:
        with as_ctrl_c():
            print("here", flush=True)
            signal.pause()
    finally:
        print("all is ended", flush=True)

run(Config, main)
"""


@pytest.fixture(autouse=True)
def _handlers_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ASKING}
    for number in ASKING:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKING)
def test_a_command_ends_what_it_started_and_says_that_it_was_interrupted(
    number: signal.Signals, repo_root: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        cwd=repo_root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            process.send_signal(number)
            out, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, told) == (130, "all is ended\n", "interrupted\n")


def test_a_second_signal_does_not_stop_the_end() -> None:
    ended = []

    def measure() -> None:
        with as_ctrl_c():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGHUP)
                ended.append("server")

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert ended == ["server"]
    assert [signal.getsignal(number) for number in ASKING] == [signal.SIG_DFL] * 2


def test_nohup_and_handlers_of_others_stand() -> None:
    def noted(*_: object) -> None:
        pass

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, noted)
    with as_ctrl_c():
        assert (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)) == (signal.SIG_IGN, noted)


def test_a_thread_can_have_none() -> None:
    seen = []

    def look() -> None:
        with as_ctrl_c():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_a_measured_server_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []
    running = SimpleNamespace(pid=4711, url="http://127.0.0.1:1")
    process = SimpleNamespace(wait=lambda: ended.append("waited for"))
    monkeypatch.setattr(mar_settings, "write", lambda *_: None)
    monkeypatch.setattr(launch, "launch", lambda _: (running, process))
    monkeypatch.setattr(mar_server, "wait_ready", lambda *_: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(processes, "end_session", lambda pid, timeout_s: ended.append(pid))
    monkeypatch.setattr(run_folder, "clear", ended.append)
    with (
        pytest.raises(KeyboardInterrupt),
        mar_server.serving(tmp_path / "x.mar", Settings(1, 1, 1, 1), tmp_path / "work"),
    ):
        pytest.fail("it never got ready")
    assert ended == [4711, "waited for", running]
