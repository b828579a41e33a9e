"""How many images a second can this machine train on? Before days are spent: network x precision x output stride.

    python -m benchmarks.train_steps --presets pspnet18 pspnet_lite0
    python -m benchmarks.train_steps --presets pspnet50 --size 240 --json

A step is what training.train does with a batch: forward, both losses, backward, update. Each way is timed after a
warm-up, in turns, so that a slow moment hits all of them; medians count. "plain" is float32 in torch's own layout
(NCHW), without what training.distributed.wrap does; the others are as training.train runs, "coarse" with the trunk at
output stride 16 (--coarse-epochs).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from benchmarks import host
from segserve import cli
from segserve.errors import UsageError
from training import distributed, pspnet
from training.coarse import Coarse
from training.config import Preset
from training.distributed import Processes
from training.losses import AUX_WEIGHT, SegmentationLoss, TrainNet

IGNORE_LABEL = 255


@dataclass(frozen=True)
class TrainStepsConfig:
    """Options of the command."""

    presets: tuple[Preset, ...] = ("pspnet18", "pspnet50", "pspnet_lite0")
    """Networks."""
    size: int = 288
    """Height and width of the crops."""
    batch_size: int = 8
    """Images in a step."""
    num_classes: int = 11
    """Classes."""
    rounds: int = 5
    """Steps that are timed, of each way."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        if not self.presets:
            raise UsageError("--presets names no network")
        if self.size < 33 or self.batch_size < 2 or self.rounds < 1 or not 1 <= self.num_classes <= 255:
            raise UsageError(
                "expected --size of 33, --batch-size of 2 and --rounds of 1 or more, 1 to 255 classes"
            )


def main(config: TrainStepsConfig) -> None:
    console, rows = Console(stderr=True), []
    for preset in config.presets:
        with console.status(preset):
            rows += measure(preset, config)
    document = {**host.describe(), "size": config.size, "batch_size": config.batch_size, "rows": rows}
    if config.as_json:
        print(host.json_of(document))
        return
    print(host.headline(document))
    print(host.markdown(rows))


def measure(preset: Preset, config: TrainStepsConfig) -> list[dict[str, Any]]:
    """A row for each way to train `preset`: images/s, and that against the plain one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    best = distributed.compute_dtype("auto", device)
    ways = {
        "plain fp32": step_of(preset, config, device, torch.float32, plain=True),
        "fp32": step_of(preset, config, device, torch.float32),
    }
    if best != torch.float32:
        ways[name_of(best)] = step_of(preset, config, device, best)
    ways[f"{name_of(best)}, coarse"] = step_of(preset, config, device, best, coarse=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(config.rounds + 1):
        for name, step in ways.items():
            begun = time.perf_counter()
            step()
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - begun)
    per_s = {name: config.batch_size / statistics.median(taken) for name, taken in seconds.items()}
    return [
        {"network": preset, "training": name, "images/s": speed, "against plain": speed / per_s["plain fp32"]}
        for name, speed in per_s.items()
    ]


def name_of(dtype: torch.dtype) -> str:
    """As --precision names it."""
    return next(name for name, known in distributed.DTYPES.items() if known == dtype)


def step_of(
    preset: Preset, config: TrainStepsConfig, device: torch.device, dtype: torch.dtype, *,
    plain: bool = False, coarse: bool = False,
) -> Callable[[], None]:  # fmt: skip
    """One step of a network of its own, on the same random batch each time."""
    torch.manual_seed(0)
    model = pspnet.build(preset, config.num_classes)
    Coarse(model.backbone).switch(on=coarse)
    loss = SegmentationLoss(IGNORE_LABEL, model.align_corners)
    losses = TrainNet(model, loss)
    net = losses.to(device) if plain else distributed.wrap(losses, Processes(0, 1, device))
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    shape = (config.batch_size, config.size, config.size)
    images, labels = torch.randn(shape[0], 3, *shape[1:]), torch.randint(config.num_classes, shape)
    layout = torch.contiguous_format if plain else torch.channels_last
    images, labels = images.to(device, memory_format=layout), labels.to(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            main_loss, aux_loss = net(images, labels, loss.count_valid(labels))
        (main_loss + AUX_WEIGHT * aux_loss).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


if __name__ == "__main__":
    cli.run(TrainStepsConfig, main)
