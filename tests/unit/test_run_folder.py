"""The run folder: whose it is, where its sockets go, which server it belongs to."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pwd
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy import front_process, launch, processes, run_folder, served
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


def lingers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `loginctl enable-linger`."""
    monkeypatch.setattr(run_folder, "LINGERING", tmp_path)
    (tmp_path / pwd.getpwuid(os.getuid()).pw_name).touch()


def test_sockets_go_where_their_paths_are_short_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_folder.socket_dir(Path("/srv/run")) == Path("/srv/run")
    lingers(tmp_path, monkeypatch)
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        short = run_folder.socket_dir(tmp_path / ("d" * 100))
        assert short.parent == Path(runtime)
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(short / "management.sock"))


def test_sockets_do_not_go_where_the_last_logout_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """logind removes the runtime folder of a user who does not linger."""
    monkeypatch.setattr(run_folder, "LINGERING", tmp_path)
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime, tempfile.TemporaryDirectory(dir="/tmp") as home:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        monkeypatch.setenv("HOME", home)
        short = run_folder.socket_dir(tmp_path / ("d" * 100))
        assert short.parent == Path(home)
        assert stat.S_IMODE(short.stat().st_mode) == 0o700


@pytest.mark.parametrize("unusable", ["", "not/absolute", "/no/such/folder", "too long"])
def test_without_a_usable_runtime_or_home_folder_sockets_go_to_tmp(
    unusable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lingers(tmp_path, monkeypatch)
    long = tmp_path / ("d" * 100)
    long.mkdir()
    for variable in ("XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.setenv(variable, str(long) if unusable == "too long" else unusable)
    short = run_folder.socket_dir(long)
    short.rmdir()
    assert short.parent == Path("/tmp")


def test_a_launch_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / ("d" * 100)
    run_dir.mkdir()
    config = tmp_path / "config.properties"
    config.write_text("job_queue_size=many\n")
    plan = launch.Plan(run_dir, config, tmp_path, ("a=a.mar",), ("127.0.0.1", 1), ("127.0.0.1", 2), "none")
    monkeypatch.setattr(run_folder, "LINGERING", tmp_path)
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        monkeypatch.setenv("HOME", home)
        with pytest.raises(UsageError, match="must be numbers"):
            launch.launch(plan)
        assert list(Path(home).iterdir()) == []


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


def test_a_late_clean_up_leaves_the_next_servers_files(tmp_path: Path) -> None:
    """A stop that took its time: meanwhile the folder was cleared, and another server started in it."""
    old, new = running(tmp_path, 1, "boot 1"), running(tmp_path, 1, "boot 2", auth="token")
    run_folder.save(new)
    (tmp_path / "tmp").mkdir()
    for name in ("management.sock", run_folder.KEY_FILE):
        (tmp_path / name).touch()
    before = sorted(path.name for path in tmp_path.iterdir())
    for other in (old, running(tmp_path, 2, "boot 2")):
        run_folder.clear(other)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    run_folder.clear(new)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_sockets_goes_with_the_server_that_it_was_made_for(tmp_path: Path) -> None:
    run_dir, sockets = tmp_path / "run", tmp_path / "sockets"
    old = dataclasses.replace(
        running(run_dir), management_socket=str(sockets / "management.sock"), tmp_dir=str(sockets / "tmp")
    )
    (sockets / "tmp").mkdir(parents=True)
    run_dir.mkdir()
    run_folder.save(running(run_dir, 2))
    run_folder.clear(old)
    assert not sockets.exists()
    assert (run_dir / run_folder.STATE_FILE).exists()


def test_a_torn_state_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / run_folder.STATE_FILE).write_text('{"pid": 1')
    with pytest.raises(ServerError, match=r"server\.json cannot be read"):
        run_folder.load(tmp_path)


@pytest.fixture
def somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the folder `run` may be read, or asked for its owner, as in one of mode 0700."""
    read_text, stat_of = Path.read_text, Path.stat

    def barred(path: Path) -> None:
        if tmp_path / "run" in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def read(path: Path, *arguments: Any, **keywords: Any) -> str:
        barred(path)
        return read_text(path, *arguments, **keywords)

    def asked(path: Path, **keywords: Any) -> os.stat_result:
        barred(path)
        return stat_of(path, **keywords)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(Path, "stat", asked)
    monkeypatch.setattr(os, "geteuid", lambda: stat_of(Path()).st_uid + 1)


@pytest.mark.usefixtures("somebody_else")
@pytest.mark.parametrize("load", [run_folder.load, front_process.load, served.load])
@pytest.mark.parametrize("known", [True, False])
def test_another_users_run_folder_is_not_called_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], object], known: bool
) -> None:
    """Who believed that would end the server and remove its files."""
    (tmp_path / "run").mkdir()
    users = {(tmp_path / "run").stat().st_uid: SimpleNamespace(pw_name="operator")} if known else {}
    monkeypatch.setattr(pwd, "getpwuid", users.__getitem__)
    who = "operator" if known else "user [0-9]+"
    with pytest.raises(
        UsageError, match=rf"run/.*\.json may not be read, it belongs to {who}: run this as {who},"
    ):
        load(tmp_path / "run")


@pytest.mark.usefixtures("somebody_else")
def test_ones_own_run_folder_that_may_not_be_read_is_not_another_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid)
    with pytest.raises(UsageError, match="though it is yours; see the permissions"):
        run_folder.load(tmp_path / "run")


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
