"""A training under way: network, optimiser, learning rate and precision; how one step is made, saved and resumed.

What is saved decides everything that follows, so that a resumed training ends with the same numbers.

    run = Run(config, processes, datasets)
    run.set_learning_rate(0.0)
    losses = run.step(images, labels)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segserve.errors import CheckFailed, CheckpointError, UsageError
from training import checkpoint, distributed, journal, optimizers, pspnet, same_images, same_options, terms
from training.average import Average
from training.checkpoint import BEST, LAST, CheckpointMeta
from training.coarse import Coarse
from training.config import TrainConfig
from training.cost import Meter
from training.data import Dataset
from training.distributed import Processes
from training.losses import AUX_WEIGHT, SegmentationLoss, TrainNet
from training.progress import Progress
from training.start import start

POLY_POWER = 0.9  # of the paper
WARMUP_START = 0.1
BEST_MIOU = "best_miou"  # among the metrics of a checkpoint


class Run:
    """A training under way: the network, what optimises it, and how far it has come."""

    def __init__(
        self, config: TrainConfig, processes: Processes, datasets: list[Dataset], images: str = ""
    ) -> None:
        """`images`: what `training.same_images` makes of all images, for those that resume; empty: they may differ."""
        self.processes, self.progress, self.meter = processes, Progress(), Meter(processes)
        dataset = datasets[0]  # all have its classes
        begin = start(config)
        corners = begin.corners(config, dataset.classes)
        self.config = config = replace(config, align_corners=corners)  # what is recorded is what was decided
        torch.manual_seed(config.seed)
        self.model = pspnet.build(
            config.preset, dataset.num_classes, align_corners=corners,
            pretrained=config.pretrained, dropout=config.dropout, layout=begin.layout,
        )  # fmt: skip
        started_from = begin.fill(self.model, config, dataset.classes)
        self.dtype = distributed.compute_dtype(config.precision, processes.device)
        self.model_dtype = torch.promote_types(self.dtype, torch.float32)
        self.model.to(self.model_dtype)
        loss_terms = terms.resolve(config.loss, datasets, processes)
        self.loss = SegmentationLoss(dataset.ignore_label, corners, loss_terms, dataset.not_these)
        self.coarse = Coarse(self.model.backbone) if config.weights.coarse_epochs else None
        becomes_fine = 0 < config.weights.coarse_epochs < config.epochs
        self.fine_untried = becomes_fine and processes.device.type == "cuda"
        self.net = distributed.wrap(TrainNet(self.model, self.loss), processes)
        self.average = Average(self.model, config.weights.ema) if config.weights.ema else None
        self.optimizer = optimizers.build(self.model, config)
        # Float16 loses small gradients: the loss is scaled up before backward. Other types don't need it.
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.dtype == torch.float16)
        self.meta = CheckpointMeta(
            config.preset, dataset.classes, dataset.ignore_label, begin.mean, begin.std, corners,
            *config.input_size, epoch=0, metrics={},
            provenance=journal.provenance(config.recorded(), datasets, processes, self.dtype),
            layout=begin.layout, bn_eps=begin.bn_eps,
        )  # fmt: skip
        if images:
            self.meta.provenance[same_images.KEY] = images
        if started_from:
            self.meta.provenance["started_from"] = started_from
        if said := terms.describe(loss_terms, dataset.classes):
            self.meta.provenance["loss"] = said

    @property
    def shown(self) -> torch.nn.Module:
        """The network that is evaluated and shipped."""
        return self.model if self.average is None else self.average.model

    def learn(self, epoch: int) -> None:
        """Training mode; at output stride 16 in the first `--coarse-epochs`."""
        self.net.train()
        if self.coarse is not None:
            self.coarse.switch(on=epoch < self.config.weights.coarse_epochs)

    def try_fine(self, images: Tensor, labels: Tensor) -> None:
        """Forward and backward at stride 8, of which nothing stays. It keeps up to twice the memory of a coarse step:
        if that does not fit, it must not be found out after days of those. Raises torch.OutOfMemoryError."""
        assert self.coarse is not None
        before, on = [buffer.clone() for buffer in self.model.buffers()], self.coarse.on
        self.coarse.switch(on=False)
        self.gradients(images, labels)
        self.optimizer.zero_grad()
        self.coarse.switch(on=on)
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(value)
        self.fine_untried = False

    def judge(self) -> None:
        """Evaluation mode, at output stride 8."""
        self.net.eval()
        if self.coarse is not None:
            self.coarse.switch(on=False)

    def set_learning_rate(self, done: float) -> float:
        """Poly schedule: base_lr (1 - done)^0.9, `done` the share of all steps taken. Returns the backbone's.

        During the warm-up a factor rises from WARMUP_START to 1, in a line.
        """
        rate: float = self.config.base_lr * (1 - done) ** POLY_POWER
        warmup = self.config.weights.warmup_epochs / self.config.epochs
        if done < warmup:
            rate *= WARMUP_START + (1 - WARMUP_START) * done / warmup
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        return rate

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.processes.device.type, self.dtype, enabled=self.dtype.itemsize < 4)

    def to_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        device = self.processes.device
        images = images.to(device, self.model_dtype, non_blocking=True, memory_format=torch.channels_last)
        return images, labels.to(device, non_blocking=True)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimiser. Returns the losses (main, auxiliary) that this process contributes, (2,)."""
        losses = self.gradients(images, labels)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)
        return losses

    def gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss and gradients of this process's part of the batch, micro-batch by micro-batch. Returns as `step`."""
        num_parts = self.config.machines.accumulate
        # of all micro-batches and processes
        num_valid = self.loss.count_valid(labels.to(self.processes.device))
        losses = torch.zeros(2, dtype=self.model_dtype, device=self.processes.device)
        self.optimizer.zero_grad()
        for number, part in enumerate(zip(images.chunk(num_parts), labels.chunk(num_parts), strict=True), 1):
            # forward as well: it decides what backward does
            with distributed.joining(self.net, number == num_parts):
                with self.autocast():
                    main, aux = self.net(*self.to_device(*part), num_valid)
                self.scaler.scale(main + AUX_WEIGHT * aux).backward()
            losses += torch.stack([main, aux]).detach()
        return losses

    @torch.no_grad()
    def predict(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and classes predicted, each int64 (N, H, W), on the CPU."""
        images, labels = self.to_device(images, labels)
        with self.autocast():
            logits = self.shown(images)
        logits = logits.to(self.model_dtype)
        size = (labels.shape[1], labels.shape[2])
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=self.model.align_corners)
        return labels.cpu(), logits.argmax(1).cpu()

    # --- saving and going on ---

    def save(self, epoch: int, metrics: dict[str, float], *, is_best: bool) -> None:
        """Write last.safetensors and, where this epoch is the best so far, best.safetensors.

        The model in the first is that which is trained, in the second that which is evaluated (they differ by --ema).
        All must call it. Raises CheckFailed, with the old files as they were, where the weights are lost.
        """
        if not self._finite():
            raise self.diverged("weights became inf or nan")
        self.meta = replace(self.meta, epoch=epoch, metrics=metrics)
        if not self.processes.is_main:
            return
        out = self.config.out
        if is_best:
            checkpoint.save_checkpoint(out / BEST, self.shown.state_dict(), self.meta)
        training = optimizers.state(self.optimizer, self.model)
        training |= self.progress.tensors()
        scaler = self.scaler.state_dict()
        training |= {f"scaler/{name}": torch.tensor(value) for name, value in scaler.items()}
        if self.average is not None:
            training |= self.average.saved()
        checkpoint.save_checkpoint(out / LAST, self.model.state_dict(), self.meta, training=training)

    def _finite(self) -> bool:
        """Whether what a resumed training would go on from is: the loss of the step that spoilt it still was."""
        models = [self.model] if self.average is None else [self.model, self.average.model]
        values = [tensor for model in models for tensor in model.state_dict().values()]
        finite = [tensor.isfinite().all() for tensor in values if tensor.is_floating_point()]
        return bool(torch.stack(finite).all().item())  # one number to wait for

    def diverged(self, what: str) -> CheckFailed:
        """The error to raise, with what to do next: --resume would take the same options, and end the same."""
        best = self.config.out / BEST
        start = f"--pretrained-from {best} in place of --pretrained, " if best.exists() else ""
        fp32 = " or --precision fp32" if self.dtype.itemsize < 4 else ""
        return CheckFailed(
            f"the {what} in epoch {self.meta.epoch + 1}: start anew with another --out, {start}a lower --base-lr{fp32} "
            "(--resume takes no other options)"
        )

    def save_within(self, step: int, losses: tuple[float, float]) -> None:
        """Write last.safetensors after `step` steps of an epoch whose losses add up to `losses`. All must call it."""
        self.progress = Progress(step, losses, self.meter.spent())
        self.save(self.meta.epoch, self.meta.metrics, is_best=False)

    def resume(self) -> None:
        """Take up what `save` left. Raises CheckpointError; UsageError where options, images or classes are others."""
        path = self.config.out / LAST
        state, meta = checkpoint.load_checkpoint(path, cast=False)  # float64 must not pass through float32
        same_options.require(path, meta.provenance, self.meta.provenance)
        if (meta.classes, meta.ignore_label) != (self.meta.classes, self.meta.ignore_label):
            raise UsageError(f"{path} was trained on other classes: {', '.join(meta.classes)}")
        checkpoint.load_state(self.model, state, path)
        training = checkpoint.load_training(path)
        optimizers.load(self.optimizer, self.model, training)
        if self.average is not None:
            self.average.load(training)
        prefix = "scaler/"
        scaler = {n.removeprefix(prefix): v.item() for n, v in training.items() if n.startswith(prefix)}
        self.scaler.load_state_dict(scaler)
        self.meta = _without_lost_best(meta, self.config.out / BEST)
        self.progress = Progress.of(training)
        self.meter.before = self.progress.spent


def _without_lost_best(meta: CheckpointMeta, best: Path) -> CheckpointMeta:
    """Where the best model so far is not there, the best of the epochs to come will be it."""
    try:
        kept = checkpoint.load_checkpoint(best)[1].metrics
    except CheckpointError:
        kept = {}
    if kept.get(BEST_MIOU) == meta.metrics.get(BEST_MIOU):
        return meta
    return replace(meta, metrics={name: v for name, v in meta.metrics.items() if name != BEST_MIOU})
