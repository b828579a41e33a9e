"""--pretrained-from with the same classes, through whole trainings: what maps are upsampled with stays as it was."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro

from segserve.errors import UsageError
from tests import tiny_pspnet
from tests.integration.painted import CLASSES, config, options
from training import pspnet, train
from training.batches import val_batches
from training.checkpoint import (
    LAST,
    SHIPPED,
    CheckpointMeta,
    load_checkpoint,
    load_model,
    load_state,
    load_training,
    save_checkpoint,
)
from training.config import TrainConfig
from training.data import EvalSamples, load_dataset
from training.distributed import Processes
from training.interruption import as_begun
from training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tuning(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Options that go on from a model of the painted classes that was trained with align_corners off."""
    tiny_pspnet.register(monkeypatch)
    torch.manual_seed(1)
    weights = pspnet.build(tiny_pspnet.PRESET, len(CLASSES), align_corners=False).state_dict()
    theirs = CheckpointMeta(
        tiny_pspnet.PRESET, CLASSES, 255, (120, 110, 100), (60, 60, 60), False, 33, 49, 0, {}, {}
    )
    save_checkpoint(tmp_path / "theirs.safetensors", weights, theirs)
    return config(
        painted, out=tmp_path / "run", preset=tiny_pspnet.PRESET, pretrained_from=tmp_path / "theirs.safetensors",
        epochs=1,
    )  # fmt: skip


def recorded(path: Path) -> bool:
    """align_corners among the options that a checkpoint has recorded."""
    value = json.loads(load_checkpoint(path)[1].provenance["options"])["align_corners"]
    assert isinstance(value, bool)
    return value


def test_a_model_that_is_tuned_keeps_its_align_corners(tuning: TrainConfig) -> None:
    train.main(tuning)
    model, meta = load_model(tuning.out / SHIPPED)
    assert (meta.align_corners, model.pyramid.align_corners) == (False, False)
    assert recorded(tuning.out / LAST) is False
    with pytest.raises(UsageError, match=r"align_corners was False, is True"):
        train.main(replace(tuning, resume=True, align_corners=True))
    train.main(replace(tuning, resume=True))
    with pytest.raises(UsageError, match=r"expected --no-align-corners, or neither"):
        train.main(replace(tuning, out=tuning.out / "other", align_corners=True))


def test_it_learns_and_is_scored_as_it_will_be_served(tuning: TrainConfig, painted: Path) -> None:
    """Its loss and its predictions are those of its own logits, upsampled as its heads know it."""
    run = Run(tuning, Processes(0, 1, torch.device("cpu")), [load_dataset(painted, "train")])
    assert (run.model.align_corners, run.loss.align_corners) == (False, False)
    run.judge()
    images, labels = torch.randn(1, 3, 33, 49), torch.zeros(1, 33, 49, dtype=torch.long)
    with torch.inference_mode():
        logits = run.model(images) + torch.randn(1, 3, 5, 7)  # so that classes differ from cell to cell
        run.model.forward = lambda _: logits  # type: ignore
        up = torch.nn.functional.interpolate(logits, (33, 49), mode="bilinear", align_corners=False)
        assert torch.equal(run.predict(images, labels)[1], up.argmax(1))


@pytest.mark.parametrize("given", [None, True])
def test_one_that_was_begun_with_the_default_of_that_time_can_be_resumed(
    tuning: TrainConfig, given: bool | None
) -> None:
    """Then align_corners was on unless said otherwise, whatever the heads had."""
    train.main(tuning)
    last = tuning.out / LAST
    state, meta = load_checkpoint(last)
    was = json.dumps(json.loads(meta.provenance["options"]) | {"align_corners": True}, sort_keys=True)
    older = replace(meta, align_corners=True, provenance=meta.provenance | {"options": was})
    save_checkpoint(last, state, older, training=load_training(last))
    train.main(replace(tuning, align_corners=given, machines=replace(tuning.machines, resume_if_there=True)))
    run = Run(
        replace(tuning, align_corners=True, resume=True), Processes(0, 1, torch.device("cpu")),
        [load_dataset(tuning.data[0], "train")],
    )  # fmt: skip
    run.resume()
    load_state(run.model, state, last)
    assert run.meta.align_corners is run.model.align_corners is True


def test_the_option_is_given_as_before(painted: Path, tmp_path: Path) -> None:
    for given, expected in (({}, None), ({"align_corners": True}, True), ({"align_corners": False}, False)):
        args = options(painted, tmp_path, **given)
        assert ("--no-align-corners" in args) == (expected is False)
        assert tyro.cli(TrainConfig, args=args).align_corners is expected


@pytest.mark.parametrize("gone", [True, False], ids=["is gone", "is another one by now"])
def test_one_that_goes_on_needs_the_file_no_more_that_it_began_with(tuning: TrainConfig, gone: bool) -> None:
    """Its photos are normalised, and its batch norms compute, as they did before, and as its checkpoint says."""
    train.main(tuning)
    began = tuning.pretrained_from
    assert began is not None
    state, meta = load_checkpoint(began)
    if gone:
        began.unlink()
    else:
        save_checkpoint(began, state, replace(meta, mean=(0, 0, 0), std=(1, 1, 1), bn_eps=0.1))
    again = as_begun(tuning)
    dataset = load_dataset(tuning.data[0], "val")
    run = Run(again, Processes(0, 1, torch.device("cpu")), [dataset])
    run.resume()
    assert (run.meta.mean, run.meta.std, run.meta.bn_eps) == (meta.mean, meta.std, None)
    assert {m.eps for m in run.model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-5}
    with closing(val_batches(again, run.processes, dataset)) as batches:
        fed = next(iter(batches))[0]
    began_with = EvalSamples(dataset, *again.input_size, meta.mean, meta.std)
    torch.testing.assert_close(fed[0], began_with[0][0])
