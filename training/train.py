"""Train a PSPNet on labelled images, on one process or many.

    python -m training.train --data rooms/dataset.toml --out runs/rooms --preset pspnet_lite0 --pretrained
    torchrun --nproc-per-node 8 -m training.train --data camvid.toml --out runs/camvid --preset pspnet101

N processes with the same options give the same result as one: batch_size is the size over all of them, batch norm
and loss are joined. In OUT appear, after every epoch:

    metrics.jsonl         one line an epoch: losses, learning rate, mIoU, mAcc, allAcc, IoU of each class (the last four
                          only where the epoch is scored, see --validate-every)
    last.safetensors      everything that --resume needs to go on as if nothing had happened; also after SIGTERM
    best.safetensors      the model of the epoch with the highest mIoU on the split "val" (with --ema: the average)
    model.safetensors     at the end: the best model in half precision without the auxiliary head, to be shipped
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torch.utils.data import Dataset as TorchDataset

from segserve import cli
from segserve.errors import CheckFailed, Interrupted, UsageError
from training import checkpoint, cost, deterministic, distributed
from training.config import TrainConfig
from training.data import Dataset, EvalSamples, TrainSamples, join, load_dataset
from training.distributed import Processes, ShardedBatches
from training.interruption import GO_ON, Watch, as_begun, check_shared, decide_to_go_on, leave_to_parent
from training.journal import Journal
from training.losses import AUX_WEIGHT
from training.metrics import ConfusionMatrix, Scores
from training.progress import Progress
from training.run import BEST, SHIPPED, Run
from training.start import start

Items = TorchDataset[tuple[Tensor, Tensor]]
Batches = DataLoader[tuple[Tensor, Tensor]]


def main(config: TrainConfig) -> None:
    """Train for `config.epochs` epochs, of which a resumed training has already made some."""
    options = config.machines
    with (
        deterministic.mode(options.deterministic),
        distributed.start() as processes,
        Watch(processes) as watch,
    ):
        if goes_on := decide_to_go_on(config):
            config = as_begun(config)
        datasets, val = load_datasets(config, "train"), load_datasets(config, "val")[0]
        run = Run(config, processes, datasets)
        journal = Journal(config.out, processes, as_json=config.as_json)
        if goes_on:
            run.resume()
        check_shared(config.out, run.meta.epoch, run.progress.step)
        journal.start(run.meta, tensorboard=options.tensorboard)
        training = TrainBatches(config, processes, datasets)
        validation = val_batches(config, processes, val)
        for epoch in range(run.meta.epoch, config.epochs):
            started = time.perf_counter()
            line = train_epoch(run, training, epoch, journal, watch)
            scores = None
            if (epoch + 1) % config.weights.validate_every == 0 or epoch + 1 == config.epochs:
                scores = evaluate(run, validation, val, f"epoch {epoch + 1}", journal)
                line |= scores.as_json(val.classes)
            finish_epoch(run, journal, line | {"seconds": time.perf_counter() - started}, scores)
            if watch.asked() and epoch + 1 < config.epochs:
                raise Interrupted(f"stopped by SIGTERM after epoch {epoch + 1}. {GO_ON}")
        if processes.is_main:
            write_shipped(config)
        journal.end()


# --- data ---------------------------------------------------------------------------------------------------


def load_datasets(config: TrainConfig, split: str) -> list[Dataset]:
    """The split of every description ("val": of the first). Raises UsageError where class lists differ."""
    descriptions = config.data if split == "train" else config.data[:1]
    datasets = [load_dataset(description, split, config.root) for description in descriptions]
    first = datasets[0]
    for dataset in datasets[1:]:
        if (dataset.classes, dataset.ignore_label) != (first.classes, first.ignore_label):
            raise UsageError(
                f"{dataset.name} has classes {dataset.classes} (ignore {dataset.ignore_label}), {first.name} "
                f"{first.classes} (ignore {first.ignore_label}): they must be equal to be trained on together"
            )
    times = config.repeat if split == "train" and config.repeat else (1,) * len(datasets)
    return join([
        replace(dataset, samples=dataset.samples[: config.limit] * number)
        for dataset, number in zip(datasets, times, strict=True)
    ])  # fmt: skip


class TrainBatches:
    """This process's augmented batches; call it with the number of the epoch and of steps already made in it."""

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
        items: Items = ConcatDataset(self.parts)
        num_items = sum(len(part) for part in self.parts)
        self.sampler = ShardedBatches(
            num_items, config.batch_size, config.seed, processes, config.machines.accumulate
        )
        self.loader: Batches = DataLoader(
            items, batch_sampler=self.sampler, num_workers=config.workers,
            persistent_workers=config.workers > 0, pin_memory=processes.device.type == "cuda",
            worker_init_fn=leave_to_parent,
            generator=torch.Generator(),  # of its own: when workers start it is drawn from, which dropout must not see
        )  # fmt: skip

    def __call__(self, epoch: int, first: int = 0) -> Batches:
        self.sampler.epoch, self.sampler.first = epoch, first
        for part in self.parts:
            part.set_epoch(epoch)
        return self.loader


def val_batches(config: TrainConfig, processes: Processes, val: Dataset) -> Batches:
    """This process's share of the validation images, letterboxed to the size that will be served."""
    begin = start(config)
    samples = EvalSamples(val, *config.input_size, begin.mean, begin.std)
    mine = Subset(samples, range(processes.rank, len(samples), processes.world_size))
    size = max(1, config.batch_size // (processes.world_size * config.machines.accumulate))
    return DataLoader(
        mine,
        size,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        worker_init_fn=leave_to_parent,
    )


# --- one epoch ----------------------------------------------------------------------------------------------


def train_epoch(
    run: Run, batches: TrainBatches, epoch: int, journal: Journal, watch: Watch
) -> dict[str, object]:
    """All steps of one epoch, or those that are left. Returns what metrics.jsonl says about it.

    Raises CheckFailed when it diverges, Interrupted after a SIGTERM.
    """
    config, first = run.config, run.progress.step
    loader, steps = batches(epoch, first), len(batches.sampler)
    run.learn(epoch)
    sums = torch.zeros(2, dtype=torch.float64, device=run.processes.device)
    if run.processes.is_main:  # of the steps made before; once, as the sums of all processes are added up
        sums += torch.tensor(run.progress.losses, dtype=torch.float64).to(sums) * run.processes.world_size
    title = f"epoch {epoch + 1}/{config.epochs}"
    rate = run.set_learning_rate((epoch * steps + max(0, first - 1)) / (config.epochs * steps))
    run.meter.lap()
    batches_left = journal.track(loader, title, config.batch_size, first)
    for step, (images, labels, bar) in enumerate(batches_left, first):
        seed_dropout(run, epoch, step)
        rate = run.set_learning_rate((epoch * steps + step) / (config.epochs * steps))
        losses = run.step(images, labels)
        sums += losses
        run.meter.step(config.batch_size)
        if step % 10 == 0:  # reading a number waits for the GPU
            bar.text = f"loss {losses[0].item():.3f} lr {rate:.2g}"
        save_within(run, watch, step + 1, steps, sums)
    main_loss, aux_loss = (loss / steps for loss in join_losses(run, sums))
    return {
        "epoch": epoch + 1, "loss": main_loss + AUX_WEIGHT * aux_loss, "main_loss": main_loss, "aux_loss": aux_loss,
        "learning_rate": rate,
    }  # fmt: skip


def seed_dropout(run: Run, epoch: int, step: int) -> None:
    """Dropout starts anew from (seed, epoch, step, rank): a resumed training draws what it would have drawn."""
    key = (run.config.seed, epoch, step, run.processes.rank)
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def save_within(run: Run, watch: Watch, step: int, steps: int, sums: Tensor) -> None:
    """Save after step `step` of `steps`, where it is time or the end was asked for. Raises Interrupted."""
    every, stops = run.config.machines.save_every_steps, watch.asked()
    if stops or (every and (step % every == 0 or step == steps)):
        run.save_within(step, join_losses(run, sums))
    if stops:
        raise Interrupted(
            f"stopped by SIGTERM in epoch {run.meta.epoch + 1} after {step} of {steps} steps. {GO_ON}"
        )


def join_losses(run: Run, sums: Tensor) -> tuple[float, float]:
    """Sums of the losses (main, auxiliary) of whole batches from those of each process. Raises CheckFailed."""
    main, aux = (distributed.join_sum(sums.clone()) / run.processes.world_size).tolist()
    if not math.isfinite(main + aux):
        raise CheckFailed(
            f"the loss became {main} in epoch {run.meta.epoch + 1}: lower --base-lr or use fp32"
        )
    return main, aux


def evaluate(run: Run, batches: Batches, val: Dataset, title: str, journal: Journal) -> Scores:
    """Scores over the validation images of all processes, at the size of the network's input."""
    run.judge()
    matrix = ConfusionMatrix(val.num_classes, val.ignore_label, val.not_these)
    for images, labels, _ in journal.track(batches, f"{title}, val", run.config.batch_size):
        expected, predicted = run.predict(images, labels)
        matrix.update(expected.numpy(), predicted.numpy())
        if journal.board:
            journal.board.look(images, expected, predicted)
    matrix.all_reduce(run.processes.device)
    return matrix.scores()


def finish_epoch(run: Run, journal: Journal, line: dict[str, object], scores: Scores | None) -> None:
    """Tell and save what the epoch brought. The line goes first: resuming drops it if saving did not happen.

    `scores`: None for an epoch that --validate-every leaves out.
    """
    metrics = {name: value for name, value in run.meta.metrics.items() if name == "best_miou"}
    is_best = False
    if scores is not None:
        best = metrics.get("best_miou", math.nan)
        is_best = math.isnan(best) or scores.miou > best
        metrics = scores.summary() | {"best_miou": scores.miou if is_best else best}
    run.progress = Progress(spent=run.meter.spent())
    device = run.meta.provenance["device"]
    price = run.config.machines.price_per_hour
    journal.epoch(line | {"cost": cost.report(run.progress.spent, device, run.processes.world_size, price)})
    run.save(run.meta.epoch + 1, metrics, is_best=is_best)
    if scores is not None and run.meta.epoch == run.config.epochs:
        journal.table(run.meta.classes, scores)


def write_shipped(config: TrainConfig) -> None:
    """model.safetensors: the best model in half precision, without the auxiliary head that only training needs."""
    state, meta = checkpoint.load_checkpoint(config.out / BEST)
    served = {name: tensor for name, tensor in state.items() if not name.startswith(checkpoint.AUX)}
    checkpoint.save_checkpoint(config.out / SHIPPED, served, meta, half=True)


if __name__ == "__main__":
    cli.run(TrainConfig, main)
