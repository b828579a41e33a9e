"""Clearing up after a server and starting the next one take turns, and neither waits for itself."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from deploy import launch, run_folder, server
from deploy.options import Start, Stop
from deploy.run_folder import Running

PATIENT_S = 30.0


def ended(run_dir: Path, pid: int = 2**22 + 1) -> Running:
    """A server whose process is gone: there is no such number."""
    return Running(
        pid, f"boot {pid}", "http://127.0.0.1:1", "http://127.0.0.1:2", str(run_dir / "management.sock"), ("rooms",),
        "none", str(run_dir), str(run_dir / "tmp"), str(run_dir / "logs"), str(run_dir),
    )  # fmt: skip


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def at_the_lock(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set as soon as somebody else than the test is about to take a run folder's lock."""
    event, real, test = threading.Event(), run_folder.exclusive, threading.get_ident()

    def exclusive(run_dir: Path) -> AbstractContextManager[None]:
        if threading.get_ident() != test:
            event.set()
        return real(run_dir)

    monkeypatch.setattr(run_folder, "exclusive", exclusive)
    return event


def test_a_stop_clears_up_when_no_start_is_on_its_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at_the_lock: threading.Event
) -> None:
    run_folder.save(ended(tmp_path))
    with run_folder.exclusive(tmp_path):
        stopping = in_thread(lambda: server.stop(Stop(tmp_path)))
        assert at_the_lock.wait(PATIENT_S)
        stopping.join(0.3)  # in vain
        assert stopping.is_alive()
        assert run_folder.load(tmp_path) == ended(tmp_path)
    stopping.join(PATIENT_S)
    assert run_folder.load(tmp_path) is None
    assert "stopped http://127.0.0.1:1" in capsys.readouterr().out


def test_a_stop_that_waited_leaves_the_server_that_was_started(
    tmp_path: Path, at_the_lock: threading.Event
) -> None:
    old, new = ended(tmp_path), ended(tmp_path, 2**22 + 2)
    run_folder.save(old)
    with run_folder.exclusive(tmp_path):
        stopping = in_thread(lambda: server._stop(old))
        assert at_the_lock.wait(PATIENT_S)
        run_folder.save(new)
        (tmp_path / "tmp").mkdir()
    stopping.join(PATIENT_S)
    assert not stopping.is_alive()
    assert run_folder.load(tmp_path) == new
    assert (tmp_path / "tmp").is_dir()


def test_a_run_folder_that_was_removed_is_no_error(tmp_path: Path) -> None:
    server._stop(ended(tmp_path / "gone"))
    assert not (tmp_path / "gone").exists()


def test_a_start_clears_up_after_a_killed_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_ports: Callable[[int], list[int]]
) -> None:
    """It has the lock by then."""
    monkeypatch.setattr(launch, "launch", lambda _: (None, None))
    with zipfile.ZipFile(tmp_path / "rooms.mar", "w") as file:
        file.writestr("x", "")
    run_dir = run_folder.create(tmp_path / "run")
    (run_dir / run_folder.LOCK_FILE).touch()
    run_folder.save(ended(run_dir))
    (run_dir / "tmp").mkdir()
    port, metrics_port = free_ports(2)
    options = Start(tmp_path, ("rooms=rooms.mar",), port=port, metrics_port=metrics_port, run_dir=run_dir)
    starting = in_thread(lambda: server._launch(options))
    starting.join(PATIENT_S)
    assert not starting.is_alive()
    assert run_folder.load(run_dir) is None
    assert not (run_dir / "tmp").exists()
