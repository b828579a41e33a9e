"""What a training is fed: this process's augmented batches, and its share of the validation images.

    with closing(TrainBatches(config, processes, datasets)) as training:
        training.begin(epoch)
        for images, labels in training: ...

Photos are decoded and augmented in `--workers` processes of each training process.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from segserve.errors import SegserveError
from training.config import TrainConfig
from training.data import Dataset, EvalSamples, TrainSamples
from training.distributed import Processes, ShardedBatches
from training.interruption import SIGNALS
from training.paste import Pasted
from training.start import start

Item = tuple[Tensor, Tensor]
MOST_LOGITS = 2**31 - 1
"""Of a batch: kernels of CUDA count no further."""


class Batches:
    """Images float32 (N, 3, H, W) and labels int64 (N, H, W) of one pass; `size`: images of a step, over all processes.

    Going through them raises DatasetError for a photo or label that is unusable. To be closed.
    """

    def __init__(self, samples: TorchDataset[Item], config: TrainConfig, size: int, **chosen: Any) -> None:
        """`chosen`: arguments of DataLoader, such as which samples make a batch."""
        self.size = size
        self.loader: DataLoader[Item | SegserveError] = DataLoader(
            Told(samples), num_workers=config.workers, persistent_workers=config.workers > 0, collate_fn=collate,
            worker_init_fn=leave_to_parent,
            generator=torch.Generator(),  # of its own: when workers start it is drawn from, which dropout must not see
            **chosen,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Item]:
        for batch in self.loader:
            if isinstance(batch, SegserveError):
                raise batch
            yield batch

    def close(self) -> None:
        """End the processes that load, which Python would wait for at its end: they ignore the SIGTERM that it sends.

        Torch does it when nothing refers to them any more, but a traceback under way does.
        """
        made, self.loader._iterator = self.loader._iterator, None
        if isinstance(made, _MultiProcessingDataLoaderIter):
            made._shutdown_workers()
            for worker in made._workers:  # those that didn't come back from reading a file meanwhile
                worker.kill()


class TrainBatches(Batches):
    """This process's augmented batches of the epoch that `begin` names."""

    def __init__(self, config: TrainConfig, processes: Processes, datasets: list[Dataset]) -> None:
        begin = start(config)
        self.parts = [
            TrainSamples(
                dataset,
                config.crop_height,
                config.crop_width,
                config.seed,
                begin.mean,
                begin.std,
                config.augmentation,
                input_size=config.input_size,
            )
            for dataset in datasets
        ]
        num_items = sum(len(part) for part in self.parts)
        self.sampler = ShardedBatches(
            num_items, config.batch_size, config.seed, processes, config.machines.accumulate
        )
        super().__init__(
            self._samples(config), config, config.batch_size, batch_sampler=self.sampler,
            pin_memory=processes.device.type == "cuda",
        )  # fmt: skip

    def _samples(self, config: TrainConfig) -> TorchDataset[Item]:
        if not config.paste.paste:
            return ConcatDataset(self.parts)
        return Pasted(self.parts, config.paste.paste, config.paste.paste_probability)

    def begin(self, epoch: int, first: int = 0) -> None:
        """Go on with this epoch, in which `first` steps were made already."""
        self.sampler.epoch, self.sampler.first = epoch, first
        for part in self.parts:
            part.set_epoch(epoch)


def val_batches(config: TrainConfig, processes: Processes, val: Dataset) -> Batches:
    """This process's share of the validation images, letterboxed to the size that will be served.

    Raises DatasetError where the first of them is unusable: rather now than after an epoch.
    """
    begin = start(config)
    samples = EvalSamples(val, *config.input_size, begin.mean, begin.std)
    samples[0]
    mine = Subset(samples, range(processes.rank, len(samples), processes.world_size))
    size = val_size(config, processes, val.num_classes)
    return Batches(mine, config, size * processes.world_size, batch_size=size)


def at_once(config: TrainConfig, processes: Processes) -> int:
    """Images of a micro-batch of one process."""
    return config.batch_size // (processes.world_size * config.machines.accumulate)


def val_size(config: TrainConfig, processes: Processes, num_classes: int) -> int:
    """Images that a process evaluates at once: of as many pixels as it trains on, and logits that can be counted."""
    images = at_once(config, processes)
    area = config.input_size[0] * config.input_size[1]
    as_trained = images * config.crop_height * config.crop_width // area
    return max(1, min(images, as_trained, MOST_LOGITS // (num_classes * area)))


# --- in the processes that load -----------------------------------------------------------------------------


class Told(TorchDataset[Item | SegserveError]):
    """`samples`; an error is an item as well: raised where it is found, it would come with that process's traceback."""

    def __init__(self, samples: TorchDataset[Item]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item | SegserveError:
        try:
            return self.samples[index]
        except SegserveError as error:
            return error


def collate(items: list[Item | SegserveError]) -> Item | SegserveError:
    """A batch; or the first error in it."""
    for item in items:
        if isinstance(item, SegserveError):
            return item
    batch: Item = default_collate(items)
    return batch


def leave_to_parent(_worker: int) -> None:
    """torchrun sends SIGTERM to these processes too, a terminal Ctrl-C, and the last step still needs its images.

    They end with the training's process, or when its `Batches` are closed.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
