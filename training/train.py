"""Train a PSPNet on labelled images, on one process or many.

    python -m training.train --data rooms/dataset.toml --out runs/rooms --preset pspnet_lite0 --pretrained
    torchrun --nproc-per-node 8 -m training.train --data camvid.toml --out runs/camvid --preset pspnet101

N processes with the same options give the same result as one: batch_size is the size over all of them, batch norm
and loss are joined. In OUT appear, after every epoch:

    metrics.jsonl         one line an epoch: losses, learning rate, mIoU, mAcc, allAcc, IoU of each class (the last four
                          only where the epoch is scored, see --validate-every)
    last.safetensors      what --resume goes on from as if nothing had happened; also before an epoch is scored, and
                          after SIGTERM, SIGHUP or a first Ctrl-C
    best.safetensors      the model of the epoch with the highest mIoU on the split "val" (with --ema: the average);
                          a resumed training that doesn't find it takes the best epoch of those to come
    model.safetensors     at the end: the best model in half precision without the auxiliary head, to be shipped
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from segserve import cli
from segserve.errors import Interrupted, UsageError
from training import checkpoint, cost, deterministic, distributed, same_images
from training.batches import MOST_LOGITS, Batches, TrainBatches, at_once, val_batches
from training.checkpoint import BEST, LAST, SHIPPED
from training.config import TrainConfig
from training.data import Dataset, join, load_dataset
from training.distributed import Processes
from training.interruption import GO_ON, Watch, alone, as_begun, check_shared, decide_to_go_on
from training.journal import Journal
from training.losses import AUX_WEIGHT
from training.metrics import ConfusionMatrix, Scores
from training.progress import Progress
from training.run import BEST_MIOU, Run


def main(config: TrainConfig) -> None:
    """Train for `config.epochs` epochs, of which a resumed training has already made some."""
    options = config.machines
    with (
        memory_told(config),
        deterministic.mode(options.deterministic),
        distributed.start() as processes,
        Watch(processes) as watch,
    ):
        if goes_on := decide_to_go_on(config):
            config = as_begun(config)
        datasets, val = load_datasets(config, "train"), load_datasets(config, "val")[0]
        require_countable(config, processes, val.num_classes)
        images = same_images.everywhere([*datasets, val])
        run = Run(config, processes, datasets, images)
        journal = Journal(config.out, processes, as_json=config.as_json)
        with (
            closing(TrainBatches(config, processes, datasets)) as training,
            closing(val_batches(config, processes, val)) as validation,
            alone(
                config.out, processes
            ),  # last, as it makes OUT: there is none where options do not go together
        ):
            if goes_on:
                run.resume()
            check_shared(config.out, run.meta.epoch, run.progress.step)
            journal.start(run.meta, config.epochs, tensorboard=options.tensorboard)
            for epoch in range(run.meta.epoch, config.epochs):
                make_epoch(run, epoch, training, validation, val, journal, watch)
            if processes.is_main:
                write_shipped(config)
            journal.end()


@contextmanager
def memory_told(config: TrainConfig) -> Iterator[None]:
    """Raises UsageError where a GPU's memory is too small, or that of the processes that load photos."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = ". ".join(str(error).split(". ")[:2])  # what follows is of PyTorch's allocator
        best, fits = (
            config.out / BEST,
            "lower the first, or raise the second, which makes the same step of smaller parts",
        )
        if best.exists():
            fits += (
                f", with another --out (--resume takes no others; --pretrained-from {best} takes the weights)"
            )
        raise UsageError(
            f"{reason}. --batch-size {config.batch_size} with --accumulate {config.machines.accumulate} does not fit: "
            f"{fits}"
        ) from error
    except RuntimeError as error:  # raised wherever the training is when such a process ends
        if not str(error).startswith("DataLoader worker"):
            raise
        goes_on = "; --resume goes on from what is saved" if (config.out / LAST).exists() else ""
        raise UsageError(
            f"{str(error).split('. ')[0]}: it loaded photos; out of memory, or of shared memory? Lower --workers "
            f"{config.workers}, in a container raise --shm-size{goes_on}"
        ) from error


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
    if first.num_classes < 2:
        raise UsageError(
            f"{first.name} has one class, {first.classes[0]}: there is nothing to tell it from, so every pixel would "
            "be of it; add another, such as other, and label the rest as that"
        )
    times = config.repeat if split == "train" and config.repeat else (1,) * len(datasets)
    return join([
        replace(dataset, samples=dataset.samples[: config.limit] * number)
        for dataset, number in zip(datasets, times, strict=True)
    ])  # fmt: skip


def require_countable(config: TrainConfig, processes: Processes, num_classes: int) -> None:
    """Raises UsageError where the logits of a micro-batch are more than CUDA's upsampling and loss can count."""
    images = at_once(config, processes)
    logits = images * num_classes * config.crop_height * config.crop_width
    if processes.device.type == "cuda" and logits > MOST_LOGITS:
        raise UsageError(
            f"{images} images a GPU of {num_classes} classes at {config.crop_height}x{config.crop_width} are "
            f"{logits:,} logits, more than the {MOST_LOGITS:,} that CUDA can count: raise --accumulate, or lower "
            "--batch-size"
        )


# --- one epoch ----------------------------------------------------------------------------------------------


def make_epoch(
    run: Run, epoch: int, training: TrainBatches, validation: Batches, val: Dataset, journal: Journal, watch: Watch
) -> None:  # fmt: skip
    """Train, evaluate where it is due, tell and save. Raises as `train_epoch`."""
    started = time.perf_counter()
    line = train_epoch(run, training, epoch, journal, watch)
    scores = None
    if run.config.scores(epoch):
        scores = evaluate(run, validation, val, f"epoch {epoch + 1}", journal)
        line |= scores.as_json(val.classes)
    finish_epoch(run, journal, line | {"seconds": time.perf_counter() - started}, scores)
    if watch.asked() and epoch + 1 < run.config.epochs:
        raise Interrupted(f"stopped by {watch.name} after epoch {epoch + 1}. {GO_ON}")


def train_epoch(
    run: Run, batches: TrainBatches, epoch: int, journal: Journal, watch: Watch
) -> dict[str, object]:
    """All steps of one epoch, or those that are left. Returns what metrics.jsonl says about it.

    Raises CheckFailed when it diverges, Interrupted after a SIGTERM.
    """
    config, first = run.config, run.progress.step
    batches.begin(epoch, first)
    steps = len(batches)
    run.learn(epoch)
    sums = torch.zeros(2, dtype=torch.float64, device=run.processes.device)
    if run.processes.is_main:  # of the steps made before; once, as the sums of all processes are added up
        sums += torch.tensor(run.progress.losses, dtype=torch.float64).to(sums) * run.processes.world_size
    title = f"epoch {epoch + 1}/{config.epochs}"
    rate = run.set_learning_rate((epoch * steps + max(0, first - 1)) / (config.epochs * steps))
    run.meter.lap()
    batches_left = journal.track(batches, title, first)
    for step, (images, labels, bar) in enumerate(batches_left, first):
        if run.fine_untried:
            run.try_fine(images, labels)
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
    """Save after step `step` of `steps`, where it is time or the end was asked for. Raises Interrupted.

    Before an evaluation it is always time: that may fail, or take longer than a machine which is taken away has left.
    """
    every, stops = run.config.machines.save_every_steps, watch.asked()
    due = (step == steps and run.config.scores(run.meta.epoch)) or (every and step % every == 0)
    if stops or due:
        run.save_within(step, join_losses(run, sums))
    if stops or (due and watch.asked()):  # meanwhile
        raise Interrupted(
            f"stopped by {watch.name} in epoch {run.meta.epoch + 1} after {step} of {steps} steps. {GO_ON}"
        )


def join_losses(run: Run, sums: Tensor) -> tuple[float, float]:
    """Sums of the losses (main, auxiliary) of whole batches from those of each process. Raises CheckFailed."""
    main, aux = (distributed.join_sum(sums.clone()) / run.processes.world_size).tolist()
    if not math.isfinite(main + aux):
        raise run.diverged(f"loss became {main + aux}")
    return main, aux


def evaluate(run: Run, batches: Batches, val: Dataset, title: str, journal: Journal) -> Scores:
    """Scores over the validation images of all processes, at the size of the network's input."""
    run.judge()
    matrix = ConfusionMatrix(val.num_classes, val.ignore_label, val.not_these)
    for images, labels, _ in journal.track(batches, f"{title}, val"):
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
    metrics = {name: value for name, value in run.meta.metrics.items() if name == BEST_MIOU}
    is_best = False
    if scores is not None:
        best = metrics.get(BEST_MIOU, math.nan)
        is_best = math.isnan(best) or scores.miou > best
        metrics = scores.summary() | {BEST_MIOU: scores.miou if is_best else best}
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
