"""A training with every option of loss and weights on: interrupted or on two processes, the same as undisturbed."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny_pspnet
from tests.integration.painted import config, environment, metrics, options, training_command
from tests.integration.tiny_training import Killed, train_until_killed
from training import train
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.data import Dataset
from training.journal import Journal
from training.losses import SegmentationLoss
from training.machines import Machines
from training.metrics import ConfusionMatrix, Scores
from training.options import LossOptions, WeightOptions
from training.run import Run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.timeout(900),  # whole trainings, which are patient with a busy machine
]
LOSS = LossOptions("balanced", ohem=0.8, ohem_keep=0.1, pairs="wall:floor", pair_weight=0.5)
WEIGHTS = WeightOptions("adamw", warmup_epochs=1, ema=0.9, coarse_epochs=2, validate_every=2)


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
    train_until_killed(everything(painted, tmp_path / "cut"), 4)
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


def test_only_every_so_many_epochs_and_the_last_are_scored_and_the_best_of_these_is_kept(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted after an epoch that is not scored, it still knows the best one before."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny_pspnet.register(monkeypatch)
    scored: list[str] = []

    def falling(run: Run, batches: object, val: Dataset, title: str, journal: object) -> Scores:
        scored.append(title)
        label = np.arange(val.num_classes, dtype=np.uint8)
        matrix = ConfusionMatrix(val.num_classes, val.ignore_label)
        matrix.update(label, label if len(scored) == 1 else np.zeros_like(label))
        return matrix.scores()

    def dying(run: Run, journal: Journal, line: dict[str, object], scores: Scores | None) -> None:
        finish(run, journal, line, scores)
        if line["epoch"] == 3:
            raise Killed

    monkeypatch.setattr(train, "evaluate", falling)
    finish = train.finish_epoch
    chosen = config(
        painted, out=tmp_path, preset=tiny_pspnet.PRESET, epochs=5, weights=WeightOptions(validate_every=2),
        machines=Machines(tensorboard=True),
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(train, "finish_epoch", dying)
        with pytest.raises(Killed):
            train.main(chosen)
    train.main(replace(chosen, resume=True))
    assert scored == ["epoch 2", "epoch 4", "epoch 5"]
    lines = metrics(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["epoch"] for line in lines if "miou" in line] == [2, 4, 5]
    assert [line["epoch"] for line in lines if "classes" in line] == [2, 4, 5]
    _, best = load_checkpoint(tmp_path / "best.safetensors")
    _, last = load_checkpoint(tmp_path / "last.safetensors")
    assert (best.epoch, best.metrics["miou"]) == (2, 1.0)
    assert (last.epoch, last.metrics["best_miou"]) == (5, 1.0)
    assert last.metrics["miou"] < 1
    assert capsys.readouterr().out.count("not validated") == 2
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("miou")] == [2, 4, 5]
    assert [event.step for event in events.Scalars("loss/loss")] == [1, 2, 3, 4, 5]


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
