"""The confusion matrix of an evaluation that is shared by two processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from training.metrics import ConfusionMatrix

REDUCE = """
import sys
import numpy as np, torch.distributed as dist
from training.metrics import ConfusionMatrix
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
rng = np.random.default_rng(0)
labels, predictions = rng.integers(0, 4, (2, 10, 50))
matrix = ConfusionMatrix(4)
matrix.update(labels[rank::2], predictions[rank::2])
matrix.all_reduce()
np.save(f"{out}/{rank}.npy", matrix.counts)
dist.destroy_process_group()
"""


def test_counts_of_two_processes_add_up_to_those_of_one(tmp_path: Path, repo_root: Path) -> None:
    command, processes = [sys.executable, "-c", REDUCE], list[subprocess.Popen[bytes]]()
    try:
        for rank in range(2):
            arguments = [str(rank), str(tmp_path / "store"), str(tmp_path)]
            processes.append(subprocess.Popen([*command, *arguments], cwd=repo_root))
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:  # one that fails leaves the other waiting for it
        for process in processes:
            process.kill()
            process.wait()
    labels, predictions = np.random.default_rng(0).integers(0, 4, (2, 10, 50))
    single = ConfusionMatrix(4)
    single.update(labels, predictions)
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npy"), single.counts)
