"""A training that ends at any step goes on from there: same losses, same weights, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from segserve.errors import Interrupted, UsageError
from tests import tiny_pspnet
from tests.integration.painted import config, environment, metrics, options
from tests.integration.tiny_training import Killed, stop_at, train_until_killed
from training import train
from training.checkpoint import load_checkpoint, load_training, save_checkpoint
from training.config import TrainConfig
from training.distributed import Processes
from training.interruption import Watch
from training.machines import Machines
from training.run import Run

STEPS = 6  # 3 epochs of 2
pytestmark = pytest.mark.usefixtures("one_thread")


def three_epochs(painted: Path, out: Path, **machines: Any) -> TrainConfig:
    return config(
        painted, out=out, preset=tiny_pspnet.PRESET, epochs=3, dropout=0.3, machines=Machines(**machines)
    )


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    tiny_pspnet.register(monkeypatch)
    return monkeypatch


@pytest.fixture(scope="module")
def whole(painted: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder of an undisturbed training, to be read only."""
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        tiny_pspnet.register(patch)
        train.main(three_epochs(painted, folder))
    return folder


def assert_same(out: Path, whole: Path) -> None:
    found, expected = (
        [{name: v for name, v in line.items() if name not in ("seconds", "cost")} for line in metrics(folder)]
        for folder in (out, whole)
    )
    assert found == expected
    for name in ("last", "best", "model"):
        mine, theirs = (
            safetensors.torch.load_file(folder / f"{name}.safetensors") for folder in (out, whole)
        )
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine if not key.endswith("progress/spent"))


def test_killed_at_each_step(whole: Path, painted: Path, tmp_path: Path) -> None:
    for step in range(2, STEPS + 1):
        chosen = three_epochs(painted, tmp_path / str(step), save_every_steps=1)
        train_until_killed(chosen, step)
        training = load_training(chosen.out / "last.safetensors")
        made = 2 * load_checkpoint(chosen.out / "last.safetensors")[1].epoch + int(training["progress/step"])
        assert made == step - 1
        train.main(replace(chosen, resume=True))
        assert_same(chosen.out, whole)


def test_killed_for_real_at_a_random_step(
    whole: Path, painted: Path, tmp_path: Path, repo_root: Path
) -> None:
    """In a process of its own, with a process that loads; saved after every second step."""
    out, step = tmp_path / "out", random.randint(2, STEPS)
    print("killed before step", step)
    chosen = options(painted, out, epochs=3, dropout=0.3, workers=1, resume_if_there=True, save_every_steps=2)
    command = [sys.executable, "-m", "tests.integration.tiny_training", *chosen]
    stopped = environment() | {"STOP_AT": str(step), "HOW": "kill"}
    done = subprocess.run(command, cwd=repo_root, env=stopped, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    train.main(replace(three_epochs(painted, out, resume_if_there=True), workers=1))
    assert_same(out, whole)


def test_sigterm_saves_and_says_how_to_go_on(
    whole: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the second epoch; nothing else was asked to be saved."""
    before = signal.getsignal(signal.SIGTERM)
    for number in (3, 4):  # in the middle of an epoch, and before its evaluation
        chosen = three_epochs(painted, tmp_path / str(number))
        with monkeypatch.context() as patch:
            stop_at(patch, number, "term")
            with pytest.raises(
                Interrupted, match=rf"epoch 2 after {number - 2} of 2 steps.*--resume"
            ) as caught:
                train.main(chosen)
        assert caught.value.exit_code == 75
        assert signal.getsignal(signal.SIGTERM) == before
        with pytest.raises(UsageError, match="already holds a training"):
            train.main(chosen)
        train.main(replace(chosen, machines=Machines(resume_if_there=True)))
        assert_same(chosen.out, whole)


@pytest.fixture
def heeded() -> Iterator[None]:
    """Signals that whoever runs the tests may have had ignored, as nohup does."""
    usual: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("how", ["int", "hup"])
def test_a_first_ctrl_c_and_a_closed_terminal_save_as_well(
    whole: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    chosen, number = three_epochs(painted, tmp_path / "out"), signal.Signals[f"SIG{how.upper()}"]
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, how)
        with pytest.raises(Interrupted, match=rf"stopped by {number.name} in epoch 2 after 1 of 2 steps"):
            train.main(chosen)
    assert signal.getsignal(number) == before
    train.main(replace(chosen, machines=Machines(resume_if_there=True)))
    assert_same(chosen.out, whole)


@pytest.mark.usefixtures("heeded")
def test_a_second_ctrl_c_ends_at_once_and_nohup_is_respected() -> None:
    hup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Watch(Processes(0, 1, torch.device("cpu"))) as watch:
            signal.raise_signal(signal.SIGHUP)
            assert not watch.asked()
            signal.raise_signal(signal.SIGINT)
            assert watch.asked()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, hup)


def test_an_epoch_is_not_lost_with_its_evaluation(
    whole: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = three_epochs(painted, tmp_path / "cut")

    def dying(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "predict", dying)
        with pytest.raises(Killed):
            train.main(chosen)
    last = chosen.out / "last.safetensors"
    assert (load_checkpoint(last)[1].epoch, int(load_training(last)["progress/step"])) == (0, 2)
    train_until_killed(replace(chosen, resume=True), 1)  # no step of the first epoch is made again
    assert [line["epoch"] for line in metrics(chosen.out)] == [1]
    train.main(replace(chosen, resume=True))
    assert_same(chosen.out, whole)


def test_sigterm_while_an_epoch_is_saved_before_its_evaluation(
    whole: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, real = three_epochs(painted, tmp_path / "cut"), Run.save_within

    def asked_meanwhile(run: Run, step: int, losses: tuple[float, float]) -> None:
        real(run, step, losses)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_within", asked_meanwhile)
        patch.setattr(Run, "predict", lambda *_: pytest.fail("evaluated"))
        with pytest.raises(Interrupted, match="epoch 1 after 2 of 2 steps"):
            train.main(chosen)
    train.main(replace(chosen, resume=True))
    assert_same(chosen.out, whole)


def test_exit_code_of_sigterm(painted: Path, tmp_path: Path, repo_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.tiny_training", *options(painted, tmp_path)],
        cwd=repo_root, env=environment() | {"STOP_AT": "2", "HOW": "term"}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 75
    assert done.stderr.startswith("error: stopped by SIGTERM in epoch 1 after 2 of 2 steps")
    assert "Traceback" not in done.stderr


def test_checkpoints_without_progress_are_resumed(whole: Path, painted: Path, tmp_path: Path) -> None:
    """Those from before a training could be resumed within an epoch."""
    chosen = three_epochs(painted, tmp_path / "old")
    train_until_killed(chosen, 4)
    last = chosen.out / "last.safetensors"
    (state, meta), training = load_checkpoint(last, cast=False), load_training(last)
    old = {name: tensor for name, tensor in training.items() if not name.startswith("progress/")}
    assert len(old) == len(training) - 3
    save_checkpoint(last, state, meta, training=old)
    train.main(replace(chosen, resume=True))
    assert_same(chosen.out, whole)


@pytest.mark.parametrize("resume_if_there", [False, True])
def test_a_second_training_in_the_same_folder_changes_nothing(
    painted: Path, tmp_path: Path, tiny: pytest.MonkeyPatch, resume_if_there: bool
) -> None:
    holds = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'a+')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('process 7 on a node', file=file, flush=True)\nprint('held', flush=True)\ntime.sleep(100)"
    )
    command = [sys.executable, "-c", holds, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            with pytest.raises(UsageError, match=r"another training writes to .* \(process 7 on a node\)"):
                train.main(three_epochs(painted, tmp_path, resume_if_there=resume_if_there))
        finally:
            first.kill()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [".lock"]
    train.main(three_epochs(painted, tmp_path, resume_if_there=resume_if_there))


def test_torchrun_that_restarts_goes_on(
    painted: Path, tmp_path: Path, tiny: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was or was not saved before."""
    tiny.setitem(os.environ, "TORCHELASTIC_RESTART_COUNT", "1")
    for _ in range(2):
        train.main(replace(three_epochs(painted, tmp_path), as_json=True))
        assert json.loads(capsys.readouterr().out)["epoch"] == 3
