"""Two machines under torchrun, as two agents that meet on loopback: one dies in the middle and comes back.

The training ends with the losses of one that nothing happened to.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests import tiny_pspnet
from tests.integration.painted import config, environment, metrics, options
from training import train
from training.machines import Machines

pytestmark = pytest.mark.usefixtures("one_thread")
PATIENCE_S = 100
# In torch 2.13 an agent keeps the address of the store that it shared with the first round's processes, which an agent
# that comes later never learns: both wait for each other for 60 s and fail (pytorch issues 135712, 147064).
UNSHARED_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
MACHINES = {"save_every_steps": 1, "resume_if_there": True}
QUICK = "keep_alive_interval=1,keep_alive_max_attempt=2,last_call_timeout=1"  # a machine is dead after 2 s
Start = Callable[..., subprocess.Popen[str]]
CHOICES: dict[str, Any] = {"epochs": 3, "dropout": 0.0, "precision": "fp64", "base_lr": 0.001}


class Agent:
    """Starts torchrun as one of two machines. The host is where they meet: that one must stay."""

    def __init__(self, port: int, chosen: list[str], started: Start, folder: Path) -> None:
        self.port, self.chosen, self.started, self.folder = port, chosen, started, folder

    def __call__(self, log: Path, env: dict[str, str], *, is_host: bool = False) -> subprocess.Popen[str]:
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
            "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{self.port}",
            "--rdzv-id", "rooms", "--rdzv-conf", f"is_host={is_host},{QUICK}", "-m", "tests.integration.tiny_training",
        ]  # fmt: skip
        return self.started([*torchrun, *self.chosen], self.folder, log, env)


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts commands whose whole families are ended with the test."""
    with ExitStack() as stack:

        def start(command: list[str], cwd: Path, log: Path, env: dict[str, str]) -> subprocess.Popen[str]:
            file = stack.enter_context(log.open("w"))
            process = subprocess.Popen(command, cwd=cwd, env=env, stdout=file, stderr=file, text=True)
            stack.callback(end, process)
            return process

        yield start


def end(process: subprocess.Popen[str]) -> None:
    """As a machine that loses power: the agent and what it started."""
    family = list[psutil.Process]()
    if process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself a moment ago
            family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def wait_for(condition: Callable[[], bool], processes: list[subprocess.Popen[str]], logs: list[Path]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        told = "\n".join(log.read_text() for log in logs)
        assert all(process.poll() is None for process in processes), told
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def test_a_machine_dies_and_comes_back(
    painted: Path, tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch,
    free_ports: Callable[[int], list[int]], started: Start,
) -> None:  # fmt: skip
    agent = Agent(
        free_ports(1)[0], options(painted, tmp_path / "out", **CHOICES, **MACHINES), started, repo_root
    )
    held = tmp_path / "held"
    machine = environment() | UNSHARED_STORE
    fails = machine | {"STOP_AT": "4", "HOW": "hold", "HELD": str(held)}
    logs = [tmp_path / name for name in ("first.log", "second.log", "again.log")]
    first = agent(logs[0], machine, is_host=True)
    second = agent(logs[1], fails)
    wait_for(held.exists, [first, second], logs[:2])
    end(second)  # in the second epoch, before its last step
    assert len(metrics(tmp_path / "out")) == 1
    again = agent(logs[2], machine)
    codes = [process.wait(PATIENCE_S) for process in (first, again)]
    assert codes == [0, 0], "\n".join(log.read_text() for log in logs)

    tiny_pspnet.register(monkeypatch)
    train.main(
        config(painted, out=tmp_path / "alone", preset=tiny_pspnet.PRESET, machines=Machines(), **CHOICES)
    )
    for one, two in zip(metrics(tmp_path / "alone"), metrics(tmp_path / "out"), strict=True):
        for name in ("epoch", "loss", "main_loss", "aux_loss", "learning_rate"):
            assert two[name] == pytest.approx(one[name], rel=1e-6)
        assert two["classes"] == one["classes"]
        assert two["cost"]["devices"] == 2
    assert (tmp_path / "out" / "model.safetensors").is_file()
