"""A server that starts where a front is there already: what nobody asks for a token is not let in by it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from deploy import front_process, launch, processes, run_folder, server
from deploy.front_config import FrontSettings
from deploy.front_process import Front
from deploy.options import Start
from segserve.errors import UsageError


@pytest.fixture
def started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`none` or `token` for each server that would have been started."""
    started: list[str] = []

    def launched(plan: launch.Plan) -> tuple[None, None]:
        started.append(plan.auth)
        return None, None

    monkeypatch.setattr(launch, "launch", launched)
    with zipfile.ZipFile(tmp_path / "rooms.mar", "w") as file:
        file.writestr("x", "")
    return started


def options(folder: Path, ports: list[int], auth: Literal["none", "token"] = "none") -> Start:
    port, metrics_port = ports
    models = ("rooms=rooms.mar",)
    return Start(folder, models, port=port, metrics_port=metrics_port, run_dir=folder / "run", auth=auth)


def front_runs(folder: Path, host: str, pid: int) -> None:
    """As far as its front.json says."""
    where = run_folder.create(folder / "run") / "front"
    (where.parent / run_folder.LOCK_FILE).touch()
    where.mkdir()
    settings = FrontSettings(str(where), "127.0.0.1:8080", host, 8443, 33554432, 300)
    front_process.save(Front(pid, processes.identity(os.getpid()), settings))


def test_without_tokens_it_does_not_start_behind_a_front_for_other_machines(
    tmp_path: Path, started_with: list[str], free_ports: Callable[[int], list[int]]
) -> None:
    front_runs(tmp_path, "0.0.0.0", os.getpid())
    with pytest.raises(
        UsageError, match=r"http://0\.0\.0\.0:8443 .*--auth token, or stop .*deploy\.front stop"
    ):
        server._launch(options(tmp_path, free_ports(2)))
    assert started_with == []


@pytest.mark.parametrize(
    ("host", "gone", "auth"),
    [("0.0.0.0", False, "token"), ("127.0.0.1", False, "none"), ("0.0.0.0", True, "none")],
    ids=["with tokens", "for this machine only", "the front has ended"],
)
def test_otherwise_it_does(
    tmp_path: Path,
    started_with: list[str],
    free_ports: Callable[[int], list[int]],
    host: str,
    gone: bool,
    auth: Literal["none", "token"],
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    front_runs(tmp_path, host, ended.pid if gone else os.getpid())
    server._launch(options(tmp_path, free_ports(2), auth=auth))
    assert started_with == [auth]
    # what a master that was killed leaves, its workers too, is cleared up
    assert (front_process.load(tmp_path / "run") is None) == gone
