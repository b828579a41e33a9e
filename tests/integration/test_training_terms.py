"""A training with every option of loss and weights on: interrupted or on two processes, the same as undisturbed."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import tiny_pspnet
from tests.integration.painted import config, environment, metrics, options, training_command
from training import train
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.losses import SegmentationLoss
from training.machines import Machines
from training.options import LossOptions, WeightOptions
from training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")
LOSS = LossOptions("balanced", ohem=0.8, ohem_keep=0.1, pairs="wall:floor", pair_weight=0.5)
WEIGHTS = WeightOptions("adamw", warmup_epochs=1, ema=0.9, coarse_epochs=2, validate_every=2)


class Killed(BaseException):
    """In the place of SIGKILL."""


def everything(painted: Path, out: Path) -> TrainConfig:
    return config(
        painted, out=out, preset=tiny_pspnet.PRESET, epochs=3, base_lr=1e-3, loss=LOSS, weights=WEIGHTS,
        machines=Machines(save_every_steps=1),
    )  # fmt: skip


def test_killed_and_resumed_it_ends_with_the_same_numbers(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pspnet.register(monkeypatch)
    train.main(everything(painted, tmp_path / "whole"))
    real, made = Run.step, 0

    def dying(run: Run, *batch: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += 1
        if made == 4:
            raise Killed
        return real(run, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", dying)
        with pytest.raises(Killed):
            train.main(everything(painted, tmp_path / "cut"))
    train.main(replace(everything(painted, tmp_path / "cut"), resume=True))

    found, expected = (
        [
            {name: v for name, v in line.items() if name not in ("seconds", "cost")}
            for line in metrics(tmp_path / f)
        ]
        for f in ("cut", "whole")
    )
    assert found == expected
    (mine, meta), (theirs, _) = (load_checkpoint(tmp_path / f / "best.safetensors") for f in ("cut", "whole"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert "OHEM below 0.8" in meta.provenance["loss"]
    assert "pairs wall:floor" in meta.provenance["loss"]
    # what is shipped is the average, not the last weights
    last, _ = load_checkpoint(tmp_path / "whole" / "last.safetensors")
    assert not torch.equal(last["head.3.weight"], theirs["head.3.weight"])


def test_coarse_epochs_come_first_and_nothing_is_evaluated_in_them(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pspnet.register(monkeypatch)
    seen: list[tuple[str, tuple[int, ...]]] = []
    loss, predict = SegmentationLoss.forward, Run.predict

    def losing(self: SegmentationLoss, logits: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(("train", tuple(logits.shape[2:])))
        return loss(self, logits, *rest)

    def predicting(run: Run, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(("val", tuple(run.shown(torch.zeros(1, 3, 33, 49)).shape[2:])))
        return predict(run, *batch)

    monkeypatch.setattr(SegmentationLoss, "forward", losing)
    monkeypatch.setattr(Run, "predict", predicting)
    weights = WeightOptions(coarse_epochs=1)
    train.main(config(painted, out=tmp_path, preset=tiny_pspnet.PRESET, epochs=2, weights=weights))
    coarse, fine, val = [("train", (3, 4))], [("train", (5, 7))], [("val", (5, 7))]
    assert seen == coarse * 2 + val + fine * 2 + val


def test_only_every_so_many_epochs_and_the_last_are_scored(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pspnet.register(monkeypatch)
    chosen = config(
        painted, out=tmp_path, preset=tiny_pspnet.PRESET, epochs=3, weights=WeightOptions(validate_every=2),
        machines=Machines(tensorboard=True),
    )  # fmt: skip
    train.main(chosen)
    lines = metrics(tmp_path)
    assert [(line["epoch"], "miou" in line, "classes" in line) for line in lines] == [
        (1, False, False), (2, True, True), (3, True, True),
    ]  # fmt: skip
    _, meta = load_checkpoint(tmp_path / "best.safetensors")
    assert meta.epoch in (2, 3)
    assert meta.metrics["best_miou"] == max(line["miou"] for line in lines[1:])
    assert "not validated" in capsys.readouterr().out


def test_two_processes_train_like_one(painted: Path, tmp_path: Path, repo_root: Path) -> None:
    """In float64, where rounding does not hide a difference."""
    chosen = {
        "epochs": 1, "precision": "fp64", "class_weights": "balanced", "ohem": 0.8, "ohem_keep": 0.1,
        "pairs": "wall:floor", "ema": 0.9, "dropout": 0, "coarse_epochs": 1,
    }  # fmt: skip
    for number in (1, 2):
        command = [*training_command(number), *options(painted, tmp_path / str(number), **chosen)]
        done = subprocess.run(
            command, cwd=repo_root, env=environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (metrics(tmp_path / number)[0] for number in ("1", "2"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-9)
    (mine, _), (theirs, _) = (
        load_checkpoint(tmp_path / n / "best.safetensors", cast=False) for n in ("1", "2")
    )
    for name, tensor in theirs.items():
        torch.testing.assert_close(tensor, mine[name], rtol=1e-6, atol=1e-9)
