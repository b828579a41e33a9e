"""What a training takes over from a checkpoint: all of it where the classes are the same, else its trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segserve.errors import CheckpointError, UsageError
from tests import tiny_pspnet
from tests.integration.painted import config
from training import pspnet
from training.checkpoint import AUX, CheckpointMeta, save_checkpoint
from training.config import TrainConfig
from training.start import TRUNK, Start, start

CLASSES = ("wall", "floor", "ceiling")


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The weights of the checkpoint."""
    tiny_pspnet.register(monkeypatch)
    torch.manual_seed(1)
    return pspnet.build(tiny_pspnet.PRESET, len(CLASSES)).state_dict()


def taken(folder: Path, weights: dict[str, torch.Tensor], classes: tuple[str, ...]) -> tuple[set[str], str]:
    """Names of the tensors of a new model that are the checkpoint's, and what is said of it."""
    path = folder / "theirs.safetensors"
    meta = CheckpointMeta(tiny_pspnet.PRESET, CLASSES, 255, (1, 2, 3), (4, 5, 6), True, 33, 49, 0, {}, {})
    save_checkpoint(path, weights, meta)
    chosen = config(folder / "data.toml", out=folder, preset=tiny_pspnet.PRESET, pretrained_from=path)
    begin = start(chosen)
    assert (begin.mean, begin.std) == ((1, 2, 3), (4, 5, 6))
    torch.manual_seed(2)
    model = pspnet.build(tiny_pspnet.PRESET, len(classes))
    said = begin.fill(model, chosen, classes)
    mine = model.state_dict()
    return {name for name in weights if torch.equal(mine[name], weights[name])}, said


def test_the_model_in_service_goes_on_with_new_photos(
    theirs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    same, said = taken(tmp_path, theirs, CLASSES)
    assert same == theirs.keys()
    assert said == f"trunk and heads of {tmp_path / 'theirs.safetensors'}"


def test_as_it_was_shipped_its_auxiliary_head_begins_anew(
    theirs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    shipped = {name: tensor for name, tensor in theirs.items() if not name.startswith(AUX)}
    same, _ = taken(tmp_path, shipped, CLASSES)
    assert same == shipped.keys()


@pytest.mark.parametrize("classes", [("floor", "wall", "ceiling"), ("wall", "floor")])
def test_of_other_classes_the_trunk_is_taken(
    theirs: dict[str, torch.Tensor], tmp_path: Path, classes: tuple[str, ...]
) -> None:
    if len(classes) != len(CLASSES):
        theirs = {n: t for n, t in theirs.items() if n.startswith(TRUNK)}
    same, said = taken(tmp_path, theirs, classes)
    assert same >= {name for name in theirs if name.startswith(TRUNK)}
    assert not same & {"head.0.0.weight", "head.3.weight", "aux.3.weight"}
    assert said.startswith("trunk of ")


def begun(folder: Path, weights: dict[str, torch.Tensor], **options: Any) -> tuple[Start, TrainConfig]:
    """From a checkpoint that was trained with align_corners off."""
    path = folder / "off.safetensors"
    save_checkpoint(
        path, weights, CheckpointMeta(tiny_pspnet.PRESET, CLASSES, 255, (1, 2, 3), (4, 5, 6), False, 33, 49, 0, {}, {})
    )  # fmt: skip
    chosen = config(
        folder / "data.toml", out=folder, preset=tiny_pspnet.PRESET, pretrained_from=path, **options
    )
    return start(chosen), chosen


@pytest.mark.parametrize(
    ("classes", "given", "expected"),
    [
        (CLASSES, None, False),
        (CLASSES, False, False),
        (("wall", "floor"), None, True),
        (("wall", "floor"), True, True),
        (("wall", "floor"), False, False),
    ],
)
def test_align_corners_comes_with_the_heads(
    theirs: dict[str, torch.Tensor],
    tmp_path: Path,
    classes: tuple[str, ...],
    given: bool | None,
    expected: bool,
) -> None:
    begin, chosen = begun(tmp_path, theirs, align_corners=given)
    assert begin.corners(chosen, classes) is expected


@pytest.mark.parametrize(("given", "expected"), [(None, True), (True, True), (False, False)])
def test_without_a_checkpoint_align_corners_is_on_or_as_said(
    tmp_path: Path, given: bool | None, expected: bool
) -> None:
    chosen = config(tmp_path / "data.toml", out=tmp_path, align_corners=given)
    assert start(chosen).corners(chosen, CLASSES) is expected


def test_align_corners_that_contradicts_the_heads_is_refused(
    theirs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    begin, chosen = begun(tmp_path, theirs, align_corners=True)
    with pytest.raises(
        UsageError,
        match=r"^--align-corners, but .*off\.safetensors, .* was trained with align_corners False: expected "
        "--no-align-corners, or neither$",
    ):
        begin.corners(chosen, CLASSES)


def test_a_trunk_that_lacks_something_is_refused(theirs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    missing = next(name for name in theirs if name.startswith(TRUNK))
    del theirs[missing]
    with pytest.raises(CheckpointError, match=f"{missing} is missing"):
        taken(tmp_path, theirs, CLASSES)
