"""One training a folder, and whether a training that is started again goes on."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from segserve.errors import UsageError
from training import distributed
from training.distributed import Processes
from training.interruption import LOCK, alone, started_again

ONE = Processes(0, 1, torch.device("cpu"))
HOLDS = """
import multiprocessing, pathlib, sys, time, torch
from training.distributed import Processes
from training.interruption import alone
out = pathlib.Path(sys.argv[1])
with alone(out, Processes(0, 1, torch.device("cpu"))):
    loads = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    loads.start()
    (out / "held").write_text(str(loads.pid))
    time.sleep(60)
"""


def test_another_training_in_the_same_folder_is_refused_until_the_first_is_gone(
    tmp_path: Path, repo_root: Path
) -> None:
    """Killed, it leaves a process that loads images for some seconds, which must not keep the folder locked."""
    held = tmp_path / "held"
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], cwd=repo_root) as process:
        try:
            deadline = time.monotonic() + 100
            while not (held.exists() and held.read_text()):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            who = f"process {process.pid} on {socket.gethostname()}"
            said = rf"another training writes to .* \({who}\): wait for its end"
            with pytest.raises(UsageError, match=said), alone(tmp_path, ONE):
                pytest.fail("two at once")
        finally:
            process.kill()
    try:
        with alone(tmp_path, ONE):
            assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    finally:
        os.kill(int(held.read_text()), 9)


def test_the_folder_is_free_after_a_training(tmp_path: Path) -> None:
    for _ in range(2):
        with alone(tmp_path / "new" / "out", ONE):
            pass
    with alone(tmp_path / "other", Processes(1, 2, torch.device("cpu"))):  # one that writes nothing
        assert not (tmp_path / "other").exists()


def test_all_processes_end_where_the_first_finds_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "join_sum", lambda values: values + 1)
    second = Processes(1, 2, torch.device("cpu"))
    with pytest.raises(UsageError, match=r"another training writes to .*: wait"), alone(tmp_path, second):
        pytest.fail("two at once")


def test_a_file_system_without_locks_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refused)
    with alone(tmp_path, ONE):
        pass


def test_a_restart_of_any_process_is_one_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert not started_again()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert started_again()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")

    def other_counts_two(count: Tensor, operation: object) -> None:
        assert operation == dist.ReduceOp.MAX
        count.clamp_(min=2)

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", other_counts_two)
    assert started_again()
