"""Options of a training: precision, shares of a batch, rates, what makes no sense, and what the command line says."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segserve.errors import UsageError
from tests.integration.painted import config, environment, training_command
from training import distributed
from training.data import load_dataset
from training.distributed import Processes, ShardedBatches
from training.options import WeightOptions
from training.run import Run

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def test_shares_of_all_processes_make_up_the_batches_of_one() -> None:
    def batches(rank: int, world_size: int, epoch: int, seed: int = 7) -> list[list[int]]:
        sampler = ShardedBatches(22, 6, seed, Processes(rank, world_size, CPU))
        sampler.epoch = epoch
        assert len(sampler) == 3  # 4 images are left out
        return list(sampler)

    whole = batches(0, 1, epoch=4)
    shares = [batches(rank, 3, epoch=4) for rank in range(3)]
    for k, batch in enumerate(whole):
        assert sorted(batch) == sorted(index for share in shares for index in share[k])
        assert all(len(share[k]) == 2 for share in shares)
    assert len(np.unique(np.concatenate(whole))) == 18
    assert batches(0, 1, epoch=4) == whole
    assert batches(0, 1, epoch=5) != whole
    assert batches(0, 1, epoch=4, seed=8) != whole
    with pytest.raises(UsageError, match="choose a multiple"):
        ShardedBatches(22, 6, 0, Processes(0, 4, CPU))


def test_precision_is_what_the_hardware_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert distributed.compute_dtype("auto", CPU) == torch.float32
    with pytest.raises(UsageError, match="bf16 is not native on this cpu"):
        distributed.compute_dtype("bf16", CPU)
    with pytest.raises(UsageError, match="fp16 is not native"):
        distributed.compute_dtype("fp16", CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert distributed.compute_dtype("auto", CPU) == torch.bfloat16
    assert distributed.compute_dtype("fp32", CPU) == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_step(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Convolutions in half precision, weights in float32, nearly the same loss; the loss scale is saved."""
    numbers = torch.Generator().manual_seed(0)
    batch = torch.randn(2, 3, 33, 49, generator=numbers), torch.randint(0, 3, (2, 33, 49), generator=numbers)
    datasets = [load_dataset(painted, "train")]

    def one_step(out: Path) -> tuple[Run, torch.Tensor]:
        run = Run(config(painted, out=out, dropout=0.0), Processes(0, 1, CPU), datasets)
        run.set_learning_rate(0)
        return run, run.step(*batch)

    _, expected = one_step(tmp_path)
    monkeypatch.setattr(distributed, "compute_dtype", lambda *_: dtype)
    run, losses = one_step(tmp_path)
    assert torch.allclose(losses, expected, rtol=0.05)
    assert not torch.equal(losses, expected)
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    run.scaler.update(1024.0)  # as if gradients had overflowed
    run.save(1, {"miou": 0.5}, is_best=False)
    again = Run(run.config, run.processes, datasets)
    again.resume()
    assert again.scaler.state_dict() == run.scaler.state_dict()
    assert again.scaler.is_enabled() == (dtype == torch.float16)
    assert torch.equal(again.step(*batch), run.step(*batch))


def test_warm_up_decay_and_optimiser_are_as_asked(painted: Path, tmp_path: Path) -> None:
    weights = WeightOptions("adamw", warmup_epochs=2)
    chosen = config(painted, out=tmp_path, epochs=10, weight_decay=0.03, weights=weights)
    run = Run(chosen, Processes(0, 1, CPU), [load_dataset(painted, "val")])
    assert run.set_learning_rate(0.0) == pytest.approx(0.01 * 0.1)
    assert run.set_learning_rate(0.1) == pytest.approx(0.01 * 0.9**0.9 * 0.55)
    assert run.set_learning_rate(0.2) == pytest.approx(0.01 * 0.8**0.9)
    assert isinstance(run.optimizer, torch.optim.AdamW)
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx(
        [0.01 * 0.8**0.9, 0.1 * 0.8**0.9]
    )
    assert {group["weight_decay"] for group in run.optimizer.param_groups} == {0.03}


def test_new_layers_learn_ten_times_faster_and_none_is_forgotten(painted: Path, tmp_path: Path) -> None:
    run = Run(config(painted, out=tmp_path), Processes(0, 1, CPU), [load_dataset(painted, "val")])
    assert run.set_learning_rate(0.5) == pytest.approx(0.01 * 0.5**0.9)
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(run.model.parameters()))
    for name, parameter in run.model.named_parameters():
        factor = 1 if name.startswith("backbone.") else 10
        assert rates[id(parameter)] == pytest.approx(factor * 0.01 * 0.5**0.9), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": 1}, "--batch-size 1"),
        ({"crop_width": 32}, "--crop-width 32"),
        ({"input_height": 8}, "--input-height 8"),
        ({"limit": 0}, "--limit 0"),
        ({"workers": -1}, "--workers -1"),
        ({"base_lr": 0.0}, "base_lr > 0"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(tmp_path, out=tmp_path, **change)


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset"):
        config(out=tmp_path)


def test_command_line_explains_itself_and_has_no_traceback_for_users(tmp_path: Path, repo_root: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*training_command(), *arguments]
        return subprocess.run(
            command, cwd=repo_root, env=environment(), capture_output=True, text=True, timeout=100
        )

    told = run("--help")
    assert told.returncode == 0
    for word in ("--base-lr", "ten times as much", "metrics.jsonl", "torchrun"):
        assert word in told.stdout
    wrong = run("--data", str(tmp_path / "none.toml"), "--out", str(tmp_path / "out"))
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")
    assert "none.toml" in wrong.stderr
    assert "Traceback" not in wrong.stderr
