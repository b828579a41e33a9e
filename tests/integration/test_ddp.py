"""Two processes under torchrun train as one process does: same losses, same evaluation, same weights.

In float64, because in float32 rounding alone turns some ReLU of a fresh network the other way: then even two memory
layouts in one process give gradients that differ by per cents, and no tolerance would show an error.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import safetensors.torch

from tests.integration.painted import environment, metrics, options, paint, training_command

pytestmark = pytest.mark.timeout(900)  # whole trainings, which are patient with a busy machine


def test_two_processes_equal_one(tmp_path: Path, repo_root: Path) -> None:
    description = paint(tmp_path / "painted")
    for num_processes in (1, 2):
        # 3 validation images: one process has two of them, the other one
        chosen = options(
            description, tmp_path / str(num_processes), precision="fp64", dropout=0, base_lr=0.001
        )
        done = subprocess.run(
            [*training_command(num_processes), *chosen], cwd=repo_root, env=environment(), capture_output=True,
            text=True, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch 1:") == 1  # one process speaks
    alone, together = metrics(tmp_path / "1"), metrics(tmp_path / "2")
    assert [line["epoch"] for line in alone] == [line["epoch"] for line in together] == [1, 2]
    for one, two in zip(alone, together, strict=True):
        for name in ("loss", "main_loss", "aux_loss", "learning_rate"):
            assert two[name] == pytest.approx(one[name], rel=1e-6)
        assert two["classes"] == one["classes"]  # from the same confusion matrix, pixel for pixel
    weights = [safetensors.torch.load_file(tmp_path / run / "last.safetensors") for run in ("1", "2")]
    assert weights[0].keys() == weights[1].keys()
    furthest = max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0])
    assert furthest < 1e-6
    assert alone[0]["loss"] != alone[1]["loss"]  # the weights did move
