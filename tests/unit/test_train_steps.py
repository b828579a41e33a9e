"""The benchmark of training times real steps: the weights move, and each way is the network that it says."""

from __future__ import annotations

import pytest
import torch

from benchmarks import train_steps
from benchmarks.train_steps import TrainStepsConfig, measure, step_of
from segserve.errors import UsageError
from tests import tiny_pspnet
from training import pspnet
from training.config import Preset

pytestmark = pytest.mark.usefixtures("one_thread")
TINY: Preset = tiny_pspnet.PRESET  # type: ignore[assignment]
SMALL = TrainStepsConfig(presets=(TINY,), size=33, batch_size=2, num_classes=3, rounds=1)


def test_a_row_for_each_way_and_the_plain_one_is_the_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pspnet.register(monkeypatch)
    steps = {"plain": 4.0, "rest": 2.0}  # seconds that each step is said to take
    now = [0.0]

    def step_of_known_time(*_: object, plain: bool = False, coarse: bool = False) -> object:
        def step() -> None:
            now[0] += steps["plain" if plain else "rest"]

        return step

    monkeypatch.setattr(train_steps, "step_of", step_of_known_time)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("training.distributed.compute_dtype", lambda *_: torch.bfloat16)
    rows = measure(TINY, SMALL)
    assert [row["training"] for row in rows] == ["plain fp32", "fp32", "bf16", "bf16, coarse"]
    assert [row["images/s"] for row in rows] == [0.5, 1.0, 1.0, 1.0]
    assert [row["against plain"] for row in rows] == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("ways", "logits"), [({"plain": True}, (5, 5)), ({}, (5, 5)), ({"coarse": True}, (3, 3))]
)
def test_a_step_trains(
    ways: dict[str, bool], logits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pspnet.register(monkeypatch)
    made: list[pspnet.PSPNet] = []
    build = pspnet.build

    def building(*args: object, **options: object) -> pspnet.PSPNet:
        made.append(build(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(pspnet, "build", building)
    step = step_of(TINY, SMALL, torch.device("cpu"), torch.float32, **ways)
    [model] = made
    seen: list[tuple[int, ...]] = []
    model.head.register_forward_hook(lambda _module, _given, out: seen.append(tuple(out.shape)))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    step()
    assert seen == [(2, 3, *logits)]
    assert all(not torch.equal(before[name], weight) for name, weight in model.named_parameters())


@pytest.mark.parametrize("wrong", [{"presets": ()}, {"size": 16}, {"batch_size": 1}, {"rounds": 0}])
def test_options_that_measure_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TrainStepsConfig(**wrong)  # type: ignore[arg-type]
