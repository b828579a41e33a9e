"""The processes that train together: how they start, which part of each batch is theirs, what they compute in.

`torchrun` starts N copies of a program and tells each its place in the environment; without it there is one
process and nothing here communicates. NCCL joins GPUs, gloo joins CPUs.

    with distributed.start() as processes:
        net = distributed.wrap(net, processes)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from segserve.errors import Interrupted, UsageError
from training import depthwise, syncbn, wide

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Processes:
    """This process's place among all (`rank` of `world_size`) and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """The process that writes files and talks to the terminal."""
        return self.rank == 0


def local_rank() -> int:
    """This process's number among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def start() -> Iterator[Processes]:
    """Join the process group that torchrun described, if it did, and leave it at the end.

    Raises: UsageError if there are more processes on this machine than GPUs.
    """
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_size > (num_gpus := torch.cuda.device_count()):
            raise UsageError(f"--nproc-per-node {local_size}, but there are {num_gpus} GPUs: start one a GPU")
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
        # every crop has the same size, so it pays to try which algorithm is the fastest
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Processes(0, 1, device)
        return
    # gloo beside NCCL: what the processes agree on between steps is on the CPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    except BaseException as error:
        # NCCL waits for the others before it leaves them, and they for this process: it would never end, nor say why
        if device.type != "cuda" or isinstance(error, Interrupted):  # which all raise
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def wrap(net: nn.Module, processes: Processes) -> nn.Module:
    """Move `net` to the device, in its fastest form; with several processes join batch norms and gradients."""
    # The overload that takes only a memory format exists at run time, not in torch's stubs.
    net = net.to(processes.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if processes.device.type == "cpu":
        depthwise.convert(net)
        wide.convert(net)
    if processes.world_size == 1:
        return net
    # The statistics of synchronised batch norms are equal everywhere: no need to send buffers around.
    return DistributedDataParallel(
        syncbn.convert(net, processes.device), forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def joining(net: nn.Module, joins: bool) -> AbstractContextManager[None]:
    """Forward and backward inside it join the gradients over the processes, or leave that to a later backward."""
    if joins or not isinstance(net, DistributedDataParallel):
        return nullcontext()
    waiting: AbstractContextManager[None] = net.no_sync()
    return waiting


def join_sum(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def all_equal(values: tuple[int, ...]) -> bool:
    """Whether every process gives the same values. All must call it."""
    if not dist.is_initialized():
        return True
    bounds = torch.tensor([values, [-value for value in values]])
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    return bool((bounds[0] == -bounds[1]).all())


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What convolutions compute in: `auto` is bfloat16 where the hardware has it, else float16 on a GPU.

    Raises: UsageError for a precision that this hardware lacks.
    """
    gpu = device.type == "cuda"
    if gpu:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        has_bf16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    if precision == "auto":
        precision = "bf16" if has_bf16 else "fp16" if gpu else "fp32"
    if (precision == "bf16" and not has_bf16) or (precision == "fp16" and not gpu):
        raise UsageError(f"{precision} is not native on this {device.type}: use --precision auto or fp32")
    return DTYPES[precision]


class ShardedBatches(Sampler[list[int]]):
    """Batches of indices for one process, from a permutation that depends on (seed, epoch) alone.

    The k-th batches of all processes together are the k-th batch of a single process. What remains after the
    last full batch is left out (in each epoch something else).
    """

    def __init__(
        self, num_items: int, batch_size: int, seed: int, processes: Processes, accumulate: int = 1
    ) -> None:
        if batch_size % (parts := processes.world_size * accumulate):
            times = f" times {accumulate} micro-batches" if accumulate > 1 else ""
            raise UsageError(
                f"batch_size {batch_size} is the size over all {processes.world_size} processes{times}: "
                f"choose a multiple of {parts}"
            )
        if batch_size < 2 * accumulate:
            raise UsageError(
                f"--accumulate {accumulate} leaves 1 of {batch_size} images in a micro-batch, which batch norm cannot "
                "work with: lower it, or raise --batch-size"
            )
        if num_items < batch_size:
            how = (
                "lower it"
                if num_items >= max(parts, 2 * accumulate)
                else "give more images, or the same several times (--repeat)"
            )
            raise UsageError(f"{num_items} training images do not fill one batch of {batch_size}: {how}")
        self.num_items, self.batch_size, self.seed, self.processes = num_items, batch_size, seed, processes
        self.epoch = 0
        self.first = 0  # steps of the epoch that were made before it was interrupted

    def __len__(self) -> int:
        return self.num_items // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_items)
        for k in range(self.first, len(self)):
            batch = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield batch[self.processes.rank :: self.processes.world_size].tolist()
