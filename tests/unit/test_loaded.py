"""Measurements whose load generator dies: they must say so, not report what came before as the whole."""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from benchmarks import endurance, kills, loaded, progress, rollouts
from benchmarks.endurance import EnduranceConfig
from benchmarks.kills import KillsConfig
from benchmarks.load_record import UNWRITTEN
from benchmarks.rollouts import RolloutsConfig
from deploy import run_folder
from deploy.processes import wait_until
from segserve.errors import ServerError, UsageError

ROW = {"due": 1.0, "sent": 1.0, "done": 1.1, "status": 200, "wrong": None, "version": "1.0"}
DIES = "print('Traceback: out of memory', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
LOADS = "signal.pause()"
HANGS = "child = os.fork()\nif child: print(os.getpid(), child, flush=True)\nwhile True: signal.pause()"


@pytest.fixture
def fake_locust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a script in Locust's place, which writes an answer and then does as told; SIGTERM ends it with code 1."""

    def install(then: str, at_the_end: str = "", before: str = "") -> None:
        script = tmp_path / "python"
        script.write_text(
            f"#!{sys.executable}\n"
            "import os, signal, sys\n"
            "def end(*_):\n"
            f"    {at_the_end or 'pass'}\n"
            "    os._exit(1)  # as after wrong answers\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "answers = sys.argv[sys.argv.index('--answers') + 1]\n"
            f"{before}\n"
            f"open(answers, 'w').write({json.dumps(ROW)!r} + chr(10))\n"
            f"{then}\n"
        )
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr(loaded, "rendered_folder", lambda _: tmp_path)

    return install


def run_locust(tmp_path: Path, wait: bool, *options: str) -> subprocess.Popen[bytes]:
    """As sessions do. wait: until it has ended by itself."""
    with loaded.locust("http://127.0.0.1:1", "rooms", 3, 1, tmp_path / "a.jsonl", options=options) as process:
        if wait:
            process.wait()
    return process


def gone(pid: int) -> bool:
    """Or waited for by nobody."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_load_that_ends_when_it_is_told_to_is_whole(tmp_path: Path, fake_locust: Any) -> None:
    fake_locust(LOADS)
    assert run_locust(tmp_path, wait=False).returncode == 1
    assert loaded.read(tmp_path / "a.jsonl") == [ROW]


def test_who_is_told_to_stop_ends_the_load_and_the_server(
    tmp_path: Path, fake_locust: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, started = list[str](), list[subprocess.Popen[bytes]]()
    monkeypatch.setattr(loaded, "module", lambda *words: called.append(" ".join(words[:2])))
    monkeypatch.setattr(run_folder, "require_running", lambda _: None)
    fake_locust(LOADS)

    def measure() -> None:
        with (
            loaded.server(mar(tmp_path), "rooms", work(tmp_path)),
            loaded.locust("http://127.0.0.1:1", "rooms", 3, 1, tmp_path / "a.jsonl") as process,
        ):
            started.append(process)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert started[0].returncode == 1  # as Locust ends after SIGTERM
    assert called == ["deploy.server start", "deploy.server stop"]


def test_many_photos_take_as_long_as_they_take(
    tmp_path: Path, fake_locust: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the load each is sent once; Locust says how far it is."""
    monkeypatch.setattr(loaded, "LOCUST_START_S", 2.5)
    fake_locust(LOADS, before="import time\nfor _ in range(12): time.sleep(0.3); print('photos', flush=True)")
    began = time.monotonic()
    assert run_locust(tmp_path, wait=False).returncode == 1
    assert time.monotonic() - began > 2.5


def test_one_that_says_nothing_for_long_is_not_waited_for(
    tmp_path: Path, fake_locust: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "LOCUST_START_S", 1.0)
    fake_locust(LOADS, before="print('the last word', flush=True)\nsignal.pause()")
    with pytest.raises(ServerError, match="Locust got no answer: the last word"):
        run_locust(tmp_path, wait=False)


def test_progress_is_said_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress.told("abc", "photos sent")) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.0)
    assert list(progress.told("ab", "photos sent")) == ["a", "b"]
    assert capsys.readouterr().out == "photos sent: 0 of 2\nphotos sent: 1 of 2\n"


def test_a_load_generator_that_dies_is_an_error_with_its_last_words(tmp_path: Path, fake_locust: Any) -> None:
    fake_locust(DIES)
    with pytest.raises(ServerError, match=r"ended by itself, exit code -9: Traceback: out of memory"):
        run_locust(tmp_path, wait=True)


@pytest.mark.parametrize("options", [(), ("--shape", "spike")])
def test_one_that_does_not_end_is_killed_and_an_error(
    tmp_path: Path, fake_locust: Any, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """With its workers, which are processes of their own."""
    monkeypatch.setattr(loaded, "LOCUST_END_S", 0.3)
    fake_locust(HANGS, at_the_end="return")
    log = tmp_path / "a.log"
    with (
        pytest.raises(ServerError, match=r"had to be killed, answers are missing: \d+ \d+"),
        loaded.locust("http://127.0.0.1:1", "rooms", 3, 1, tmp_path / "a.jsonl", options=options),
    ):
        assert wait_until(lambda: log.read_text().endswith("\n"), 30)
    for pid in map(int, log.read_text().split()):
        assert wait_until(partial(gone, pid), 30)


def test_what_went_wrong_before_is_told_though_locust_hangs_then(
    tmp_path: Path, fake_locust: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "LOCUST_END_S", 0.3)
    fake_locust(HANGS, at_the_end="return")
    with (
        pytest.raises(UsageError, match="the reason"),
        loaded.locust("http://127.0.0.1:1", "rooms", 3, 1, tmp_path / "a.jsonl"),
    ):
        raise UsageError("the reason")


def test_one_that_gives_up_is_an_error_but_a_shape_ends_by_itself(tmp_path: Path, fake_locust: Any) -> None:
    fake_locust("sys.exit(0)")
    with pytest.raises(ServerError, match="ended by itself, exit code 0"):
        run_locust(tmp_path, wait=True)
    assert run_locust(tmp_path, False, "--shape", "spike").returncode == 0


def test_a_shape_that_is_killed_did_not_end(tmp_path: Path, fake_locust: Any) -> None:
    fake_locust(DIES)
    with pytest.raises(ServerError, match="a load process died, answers are missing: Traceback"):
        run_locust(tmp_path, True, "--shape", "spike")


def test_a_worker_that_never_reported_is_an_error(tmp_path: Path, fake_locust: Any) -> None:
    fake_locust(LOADS, "print('error: no last report from host_1', flush=True)")
    with pytest.raises(ServerError, match="answers are missing: error: no last report from host_1"):
        run_locust(tmp_path, wait=False)


def test_an_answer_that_was_not_written_down_is_an_error(tmp_path: Path, fake_locust: Any) -> None:
    said = f"error: 2 {UNWRITTEN}: OSError: [Errno 28] No space left on device"
    fake_locust(LOADS, f"print({said!r}, flush=True)")
    with pytest.raises(ServerError, match=rf"answers are missing, is the disk full\? {re.escape(said)}"):
        run_locust(tmp_path, wait=False)


@pytest.fixture
def dead_load(monkeypatch: pytest.MonkeyPatch, fake_locust: Any) -> None:
    """A server, and a Locust that has died when it is looked at first."""
    fake_locust(DIES)
    started = loaded.locust

    @contextlib.contextmanager
    def server(*_: object) -> Iterator[Any]:
        yield SimpleNamespace(url="http://127.0.0.1:1", run_dir="run")

    @contextlib.contextmanager
    def locust(*arguments: Any, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        with started(*arguments, **options) as process:
            process.wait()
            yield process

    monkeypatch.setattr(loaded, "server", server)
    monkeypatch.setattr(loaded, "locust", locust)


@pytest.mark.usefixtures("dead_load")
def test_endurance_does_not_wait_for_answers_that_nobody_asks_for(tmp_path: Path) -> None:
    config = EnduranceConfig(mar(tmp_path), requests=100)
    with pytest.raises(ServerError, match="ended by itself, exit code -9"):
        endurance.measure(config, "rooms", 3, tmp_path)


@pytest.mark.usefixtures("dead_load")
def test_rollouts_need_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rolled_out: list[Path] = []
    monkeypatch.setattr(rollouts, "_busy_for", lambda _: None)
    monkeypatch.setattr(rollouts, "roll_out", lambda new, *_: rolled_out.append(new))
    config = RolloutsConfig(mar(tmp_path), mar(tmp_path))
    with pytest.raises(ServerError, match="ended by itself, exit code -9"):
        rollouts.measure(config, "rooms", 3, tmp_path)
    assert rolled_out == []


def mar(folder: Path) -> Path:
    """A file of that kind, as far as options look."""
    path = folder / "rooms.mar"
    path.touch()
    return path


def work(folder: Path) -> Path:
    """An empty folder."""
    path = folder / "work"
    path.mkdir()
    return path


def test_a_package_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    none, there = tmp_path / "none.mar", mar(tmp_path)
    for make in (
        lambda: EnduranceConfig(none),
        lambda: KillsConfig(none),
        lambda: RolloutsConfig(none, there),
        lambda: RolloutsConfig(there, none),
    ):
        with pytest.raises(UsageError, match=r"none\.mar: no such file; `make package`"):
            make()


def test_a_worker_that_never_comes_back_is_null_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"kills": 2, "wrong": [], "recovery_s": [2.0, math.inf], "recovery_s_median": math.inf}
    monkeypatch.setattr(kills, "check_package", lambda _: SimpleNamespace(name="rooms"))
    monkeypatch.setattr(loaded, "server", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(kills, "measure", lambda *_: found)
    assert kills.main(KillsConfig(mar(tmp_path), json=True)) == 1
    assert '"recovery_s": [2.0, null], "recovery_s_median": null' in capsys.readouterr().out
