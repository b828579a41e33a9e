"""A training under way: network, optimiser, learning rate and precision; how one step is made, saved and resumed.

What is saved after an epoch decides everything that follows, so that a resumed training ends with the same numbers.

    run = Run(config, processes, datasets)
    run.set_learning_rate(0.0)
    losses = run.step(images, labels)
"""

from __future__ import annotations

import json
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from segserve.errors import UsageError
from training import checkpoint, distributed, journal, pspnet
from training.checkpoint import CheckpointMeta
from training.config import TrainConfig
from training.data import Dataset
from training.distributed import Processes
from training.losses import AUX_WEIGHT, SegmentationLoss, TrainNet
from training.start import start

MOMENTUM, POLY_POWER, NEW_LAYERS_RATE = 0.9, 0.9, 10.0  # of the paper
LAST, BEST, SHIPPED = "last.safetensors", "best.safetensors", "model.safetensors"


class Run:
    """A training under way: the network, what optimises it, and how far it has come."""

    def __init__(self, config: TrainConfig, processes: Processes, datasets: list[Dataset]) -> None:
        self.config, self.processes = config, processes
        dataset = datasets[0]  # all have its classes
        begin = start(config)
        torch.manual_seed(config.seed)
        self.model = pspnet.build(
            config.preset, dataset.num_classes, align_corners=config.align_corners,
            pretrained=config.pretrained, dropout=config.dropout, layout=begin.layout,
        )  # fmt: skip
        begin.fill(self.model, config)
        self.dtype = distributed.compute_dtype(config.precision, processes.device)
        self.model_dtype = torch.promote_types(self.dtype, torch.float32)
        self.model.to(self.model_dtype)
        net = TrainNet(self.model, SegmentationLoss(dataset.ignore_label, config.align_corners, dataset.not_these))
        self.net = distributed.wrap(net, processes)
        groups = [
            {"params": list(self.model.pretrained_parameters()), "rate": 1.0},
            {"params": list(self.model.new_parameters()), "rate": NEW_LAYERS_RATE},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=config.base_lr, momentum=MOMENTUM, weight_decay=config.weight_decay
        )
        # Float16 loses small gradients: the loss is scaled up before backward. Other types don't need it.
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.dtype == torch.float16)
        self.meta = CheckpointMeta(
            config.preset, dataset.classes, dataset.ignore_label, begin.mean, begin.std, config.align_corners,
            *config.input_size, epoch=0, metrics={},
            provenance=journal.provenance(config.recorded(), datasets, processes, self.dtype),
            layout=begin.layout, bn_eps=begin.bn_eps,
        )  # fmt: skip

    def set_learning_rate(self, done: float) -> float:
        """Poly schedule: base_lr (1 - done)^0.9, `done` the share of all steps taken. Returns the backbone's."""
        rate: float = self.config.base_lr * (1 - done) ** POLY_POWER
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
        """One step of SGD. Returns the losses (main, auxiliary) that this process contributes, (2,)."""
        with self.autocast():
            main, aux = self.net(*self.to_device(images, labels))
        self.optimizer.zero_grad()
        self.scaler.scale(main + AUX_WEIGHT * aux).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack([main, aux]).detach()

    @torch.no_grad()
    def predict(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and classes predicted, each int64 (N, H, W), on the CPU."""
        images, labels = self.to_device(images, labels)
        with self.autocast():
            logits = self.model(images)
        logits = logits.to(self.model_dtype)
        size = (labels.shape[1], labels.shape[2])
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=self.config.align_corners)
        return labels.cpu(), logits.argmax(1).cpu()

    # --- saving and going on ---

    def save(self, epoch: int, metrics: dict[str, float], *, is_best: bool) -> None:
        """Write last.safetensors and, where this epoch is the best so far, best.safetensors."""
        self.meta = replace(self.meta, epoch=epoch, metrics=metrics)
        if not self.processes.is_main:
            return
        state, out = self.model.state_dict(), self.config.out
        if is_best:
            checkpoint.save_checkpoint(out / BEST, state, self.meta)
        training = {
            f"momentum/{name}": self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.model.named_parameters()
            if self.optimizer.state[parameter]  # none yet if every step so far overflowed float16
        }
        scaler = self.scaler.state_dict()
        training |= {f"scaler/{name}": torch.tensor(value) for name, value in scaler.items()}
        checkpoint.save_checkpoint(out / LAST, state, self.meta, training=training)

    def resume(self) -> None:
        """Take up what `save` left. Raises CheckpointError; UsageError where the options are others."""
        path = self.config.out / LAST
        state, meta = checkpoint.load_checkpoint(path, cast=False)  # float64 must not pass through float32
        if (options := self.meta.provenance["options"]) != meta.provenance.get("options"):
            raise UsageError(f"{path} was trained with other options: {_difference(meta, options)}")
        precision, was = self.meta.provenance["precision"], meta.provenance.get("precision")
        if precision != was:
            raise UsageError(
                f"{path} was trained in {was}, here --precision {self.config.precision} means {precision}: resume on "
                "the same hardware, or start anew with a --precision that both have"
            )
        if (meta.classes, meta.ignore_label) != (self.meta.classes, self.meta.ignore_label):
            raise UsageError(f"{path} was trained on other classes: {', '.join(meta.classes)}")
        checkpoint.load_state(self.model, state, path)
        training = checkpoint.load_training(path)
        for name, parameter in self.model.named_parameters():
            if (saved := training.get(f"momentum/{name}")) is not None:
                momentum = torch.empty_like(parameter, requires_grad=False).copy_(saved)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        prefix = "scaler/"
        scaler = {n.removeprefix(prefix): v.item() for n, v in training.items() if n.startswith(prefix)}
        self.scaler.load_state_dict(scaler)
        self.meta = meta


def _difference(theirs: CheckpointMeta, mine: str) -> str:
    """The options in which a checkpoint differs from this command."""
    old, new = json.loads(theirs.provenance.get("options", "{}")), json.loads(mine)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names)
