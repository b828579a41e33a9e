"""Micro-batches add up to the batch: loss and gradients, in one process and in two, with pixels ignored unevenly.

Batch norm in eval mode and float64: what is left is what accumulation must keep.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from segserve.errors import UsageError
from tests import tiny_pspnet
from tests.integration.painted import config
from training.config import TrainConfig
from training.data import load_dataset
from training.distributed import Processes, ShardedBatches
from training.machines import Machines
from training.run import Run

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def accumulating(painted: Path, out: Path, accumulate: int) -> TrainConfig:
    return config(
        painted, out=out, preset=tiny_pspnet.PRESET, precision="fp64", dropout=0.0, batch_size=8,
        machines=Machines(accumulate=accumulate),
    )  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    """8 images; the first have nearly no valid pixel, the sixth none."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(8, 3, 33, 49, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (8, 33, 49), generator=generator)
    labels[:3, 2:] = 255
    labels[5] = 255
    return images, labels


def gradients(painted: Path, out: Path, accumulate: int, processes: Processes) -> dict[str, Tensor]:
    """By parameter's name, and under "losses" this process's share of the losses."""
    run = Run(accumulating(painted, out, accumulate), processes, [load_dataset(painted, "train")])
    run.net.eval()
    run.gradients(*batch())  # what an earlier step left must not be added to
    losses = run.gradients(*(tensor[processes.rank :: processes.world_size] for tensor in batch()))
    found = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    assert found.keys() == dict(run.model.named_parameters()).keys()
    return found | {"losses": losses}


def one_of_two(rank: int, painted: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        tiny_pspnet.register(patch)
        dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
        found = {n: gradients(painted, folder, n, Processes(rank, 2, CPU)) for n in (1, 4)}
        torch.save(found, folder / f"{rank}.pt")
        dist.destroy_process_group()


def test_micro_batches_add_up(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pspnet.register(monkeypatch)
    whole = gradients(painted, tmp_path, 1, Processes(0, 1, CPU))
    for accumulate in (2, 4):
        parts = gradients(painted, tmp_path, accumulate, Processes(0, 1, CPU))
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)
    assert all(torch.count_nonzero(gradient) for name, gradient in whole.items() if "weight" in name)


def test_in_two_processes(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 micro-batches of 1 image in each of two processes; gradients are joined at the last one only."""
    spawn(one_of_two, (painted, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    tiny_pspnet.register(monkeypatch)
    whole = gradients(painted, tmp_path, 1, Processes(0, 1, CPU))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for accumulate in (1, 4):
        found = [rank[accumulate] for rank in ranks]
        losses = [rank.pop("losses") for rank in found]
        torch.testing.assert_close(sum(losses) / 2, whole["losses"], rtol=1e-9, atol=1e-12)
        for rank in found:
            expected = {name: whole[name] for name in rank}
            torch.testing.assert_close(rank, expected, rtol=1e-9, atol=1e-12)


def test_batches_that_cannot_be_split(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--accumulate 0"):
        accumulating(painted, tmp_path, 0)
    with pytest.raises(UsageError, match="2 processes times 3 micro-batches: choose a multiple of 6"):
        ShardedBatches(22, 8, 0, Processes(0, 2, CPU), accumulate=3)
    with pytest.raises(UsageError, match="1 of 8 images in a micro-batch, which batch norm cannot work with"):
        ShardedBatches(22, 8, 0, Processes(0, 1, CPU), accumulate=8)


def test_only_a_changed_result_is_recorded(painted: Path, tmp_path: Path) -> None:
    """Trainings from before there was this option can be resumed; one with another option can't."""
    assert "accumulate" not in accumulating(painted, tmp_path, 1).recorded()
    assert '"accumulate": 4' in accumulating(painted, tmp_path, 4).recorded()
