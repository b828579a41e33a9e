"""The run folder: whose it is, where its sockets go, which server it belongs to."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from deploy import launch, processes, run_folder
from deploy.run_folder import Running
from segserve.errors import ServerError, UsageError


def running(tmp_path: Path, pid: int = 1, identity: str = "boot 1", auth: str = "none") -> Running:
    return Running(
        pid, identity, "http://127.0.0.1:1", "http://127.0.0.1:2", str(tmp_path / "management.sock"), ("rooms",),
        auth, str(tmp_path), str(tmp_path / "tmp"), str(tmp_path / "logs"), str(tmp_path),
    )  # fmt: skip


def test_the_run_folder_is_private_even_if_it_was_not(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    assert stat.S_IMODE(run_folder.create(folder).stat().st_mode) == 0o700


def test_a_folder_of_somebody_elses_is_refused_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    (folder / "tmp").mkdir(parents=True)
    folder.chmod(0o755)
    with pytest.raises(UsageError, match=r"home is not empty and is no run folder .*--run-dir"):
        run_folder.create(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert (folder / "tmp").is_dir()


def test_a_run_folder_is_used_again(tmp_path: Path) -> None:
    folder = run_folder.create(tmp_path / "run")
    with run_folder.exclusive(folder):
        (folder / "logs").mkdir()
    assert run_folder.create(folder) == folder


def test_sockets_go_where_their_paths_are_short_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_folder.socket_dir(Path("/srv/run")) == Path("/srv/run")
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        short = run_folder.socket_dir(tmp_path / ("d" * 100))
        assert short.parent == Path(runtime)
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(short / "management.sock"))


@pytest.mark.parametrize("runtime", ["", "not/absolute", "/no/such/folder", "too long"])
def test_without_a_usable_runtime_folder_sockets_go_to_tmp(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("d" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long) if runtime == "too long" else runtime)
    short = run_folder.socket_dir(long)
    short.rmdir()
    assert short.parent == Path("/tmp")


def test_a_launch_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / ("d" * 100)
    run_dir.mkdir()
    config = tmp_path / "config.properties"
    config.write_text("job_queue_size=many\n")
    plan = launch.Plan(run_dir, config, tmp_path, ("a=a.mar",), ("127.0.0.1", 1), ("127.0.0.1", 2), "none")
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        with pytest.raises(UsageError, match="must be numbers"):
            launch.launch(plan)
        assert list(Path(runtime).iterdir()) == []


def test_state_survives_the_file_and_a_clean_stop_removes_it(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "ts_log.log").write_text("kept")
    state = running(tmp_path)
    assert run_folder.load(tmp_path) is None
    run_folder.save(state)
    assert run_folder.load(tmp_path) == state
    run_folder.clear(state)
    assert run_folder.load(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_torn_state_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / run_folder.STATE_FILE).write_text('{"pid": 1')
    with pytest.raises(ServerError, match=r"server\.json cannot be read"):
        run_folder.load(tmp_path)


def test_alive_means_that_very_process(tmp_path: Path) -> None:
    pid = os.getpid()
    boot, _, start_ticks = processes.identity(pid).partition(" ")
    assert running(tmp_path, pid, f"{boot} {start_ticks}").alive()
    assert not running(
        tmp_path, pid, f"{boot} {int(start_ticks) - 1}"
    ).alive()  # the number was given to another
    assert not running(tmp_path, pid, f"another-boot {start_ticks}").alive()


def test_tokens_are_read_only_where_they_are_on(tmp_path: Path) -> None:
    (tmp_path / run_folder.KEY_FILE).write_text(json.dumps({"inference": {"key": "abc"}}))
    assert running(tmp_path, auth="none").token("inference") is None
    assert running(tmp_path, auth="token").token("inference") == "abc"
    with pytest.raises(UsageError, match="no management token"):
        running(tmp_path, auth="token").token("management")
