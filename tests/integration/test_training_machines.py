"""Deterministic mode, the cost in metrics.jsonl, and TensorBoard's files read back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from segserve.errors import UsageError
from tests import tiny_pspnet
from tests.integration.painted import CLASSES, config, metrics
from training import train
from training.machines import Machines
from training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pspnet.register(monkeypatch)


def seen_by_steps(monkeypatch: pytest.MonkeyPatch, operation: Callable[[Tensor], object]) -> None:
    """Have each step do `operation` with its images."""
    real = Run.step

    def step(run: Run, images: Tensor, labels: Tensor) -> Tensor:
        operation(images)
        return real(run, images, labels)

    monkeypatch.setattr(Run, "step", step)


def test_deterministic_mode_gives_the_same_result_and_ends_with_the_training(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    seen_by_steps(monkeypatch, lambda _: seen.append(torch.are_deterministic_algorithms_enabled()))
    for name, on in (("plain", False), ("fixed", True)):
        options = Machines(deterministic=on)
        train.main(config(painted, out=tmp_path / name, preset=tiny_pspnet.PRESET, machines=options))
    assert seen == [False] * 4 + [True] * 4
    assert not torch.are_deterministic_algorithms_enabled()
    for plain, fixed in zip(metrics(tmp_path / "plain"), metrics(tmp_path / "fixed"), strict=True):
        assert fixed["loss"] == pytest.approx(plain["loss"], rel=1e-4)


def test_an_operation_without_a_deterministic_version(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has none on CPUs either."""
    seen_by_steps(
        monkeypatch,
        lambda images: torch.zeros(9).put_(torch.tensor([0]), images[0, 0, 0, :1], accumulate=False),
    )
    train.main(config(painted, out=tmp_path / "plain", preset=tiny_pspnet.PRESET, epochs=1))
    chosen = config(
        painted, out=tmp_path / "fixed", preset=tiny_pspnet.PRESET, machines=Machines(deterministic=True)
    )
    with pytest.raises(UsageError, match="--deterministic cannot be kept here: put_"):
        train.main(chosen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_that_is_too_small(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In PyTorch's words of a real one."""

    def full(_images: Tensor) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.92 GiB of which 1.05 GiB "
            "is free. Process 1 has 6.87 GiB memory in use."
        )

    seen_by_steps(monkeypatch, full)
    with pytest.raises(
        UsageError,
        match=r"^CUDA out of memory\. Tried to allocate 2\.00 GiB\. --batch-size 4 with --accumulate 1 does not fit",
    ):
        train.main(config(painted, out=tmp_path, preset=tiny_pspnet.PRESET))


def test_cost_and_tensorboard(painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = Machines(tensorboard=True, price_per_hour=3600.0)
    train.main(config(painted, out=tmp_path, preset=tiny_pspnet.PRESET, machines=options))
    lines = metrics(tmp_path)
    costs = [line["cost"] for line in lines]
    assert costs[0]["price"] == pytest.approx(costs[0]["hours"] * 3600)
    assert 0 < costs[0]["hours"] < costs[1]["hours"]
    assert costs[1]["images_per_second"] > 0
    assert f"h on 1 x {costs[1]['device']}" in capsys.readouterr().out.replace("\n", " ")

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for tag, name in (("loss/loss", "loss"), ("learning_rate", "learning_rate"), ("miou", "miou")):
        written = [(event.step, event.value) for event in events.Scalars(tag)]
        assert written == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in lines]
    for name in CLASSES:
        written = [event.value for event in events.Scalars(f"iou/{name}")]
        assert written == pytest.approx([line["classes"][name]["iou"] for line in lines])
    pictures = events.Images("val/2")  # 3 validation images
    assert [picture.step for picture in pictures] == [1, 2]
    assert "val/3" not in events.Tags()["images"]
    assert (pictures[0].height, pictures[0].width) == (33, 3 * 49)  # photo, label, prediction
    assert shown(pictures[0].encoded_image_string)[0, 49 + 24].tolist() == [128] * 3  # ignored pixels


def shown(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_tensorboard_that_is_not_installed(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    chosen = config(painted, out=tmp_path, preset=tiny_pspnet.PRESET, machines=Machines(tensorboard=True))
    with pytest.raises(UsageError, match="pip install tensorboard"):
        train.main(chosen)
