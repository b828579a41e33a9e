"""Labels that say only what a pixel is not: read from files, learnt from, counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from segserve.errors import DatasetError, UsageError
from training import label_sets, partial
from training.config import TrainConfig
from training.data import join, load_dataset
from training.label_sets import NotThese
from training.losses import SegmentationLoss, Terms
from training.metrics import ConfusionMatrix
from training.train import load_datasets

CLASSES = ("wall", "floor", "sofa")
NOT_FLOOR, NOT_SEAT = NotThese(254, (1,)), NotThese(253, (0, 2))


def test_the_loss_is_that_of_all_other_classes_together() -> None:
    logits = torch.tensor([[[[2.0, -1.0]], [[0.5, 3.0]], [[-4.0, 0.0]]]], dtype=torch.float64)
    labels = torch.tensor([[[254, 253]]])
    found = partial.losses(logits, labels, (NOT_FLOOR, NOT_SEAT))
    p = logits.softmax(1)[0, :, 0]
    expected = [-torch.log(1 - p[1, 0]).item(), -torch.log(1 - p[0, 1] - p[2, 1]).item()]
    assert found is not None
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert partial.losses(logits, torch.tensor([[[0, 255]]]), (NOT_FLOOR,)) is None


def test_it_stays_exact_where_the_class_is_nearly_ruled_out() -> None:
    logits = torch.tensor([30.0, -30.0, 0.0]).view(1, 3, 1, 1)
    found = partial.losses(logits, torch.full((1, 1, 1), 254), (NOT_FLOOR,))
    assert found is not None
    assert found.item() == pytest.approx(np.exp(-60), rel=1e-3)  # 1 - p in float32 would say 0


@pytest.mark.parametrize(
    "terms", [Terms(), Terms(class_weights=(1.0, 4.0, 2.0)), Terms(ohem=0.999, ohem_keep=1.0)]
)
def test_together_with_the_rest_of_the_loss(terms: Terms) -> None:
    """Pixels of known class with their weight, the others with 1; all have a gradient, ignored ones have none."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 4), generator=generator)
    labels[0, :2], labels[1, 0] = 254, 255
    criterion = SegmentationLoss(255, True, terms, (NOT_FLOOR,))
    loss = criterion(logits, labels, criterion.count_valid(labels))
    nll = -logits.log_softmax(1)
    p_floor = logits.softmax(1)[:, 1]
    weights = torch.tensor(terms.class_weights or (1.0, 1.0, 1.0), dtype=torch.float64)
    known = labels < 3
    above = (
        weights[labels[known]] * nll.permute(0, 2, 3, 1)[known].gather(1, labels[known][:, None])[:, 0]
    ).sum()
    above = above - torch.log(1 - p_floor[labels == 254]).sum()
    assert loss.item() == pytest.approx((above / (weights[labels[known]].sum() + 8)).item(), rel=1e-9)
    loss.backward()
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad[1, :, 0]) == 0
    assert torch.count_nonzero(logits.grad[0]) == logits.grad[0].numel()


# --- descriptions and files ---------------------------------------------------------------------------------


def dataset(folder: Path, values: list[int], partial_table: str) -> Path:
    """One photo of a row of pixels with these label values. Returns the description."""
    for kind, pixels in (
        ("images", np.zeros((1, len(values), 3), np.uint8)),
        ("labels", np.array([values], np.uint8)),
    ):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / kind / "a.png")
    text = 'name = "some"\nclasses = ["wall", "floor", "sofa"]\n' + partial_table
    (folder / "dataset.toml").write_text(text + '\n[splits.train]\nimages = "images"\nlabels = "labels"\n')
    return folder / "dataset.toml"


def test_values_of_datasets_that_are_trained_on_together_are_told_apart(tmp_path: Path) -> None:
    """Both files say 9, each means something else."""
    floors = load_dataset(dataset(tmp_path / "floors", [1, 9, 255], '[partial]\n9 = ["floor"]'), "train")
    seats = load_dataset(
        dataset(tmp_path / "seats", [2, 9, 8], '[partial]\n9 = ["sofa"]\n8 = ["floor"]'), "train"
    )
    plain = load_dataset(dataset(tmp_path / "plain", [0, 1, 2], ""), "train")
    assert floors.read(floors.samples[0])[1].tolist() == [[1, 254, 255]]
    first, second, third = join([floors, seats, plain])
    assert first.read(first.samples[0])[1].tolist() == [[1, 254, 255]]
    assert second.read(second.samples[0])[1].tolist() == [[2, 253, 254]]
    assert (
        first.not_these == second.not_these == third.not_these == (NotThese(254, (1,)), NotThese(253, (2,)))
    )


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('[partial]\n9 = ["carpet"]', "carpet"),
        ('[partial]\n9 = "floor"', "expected a list"),
        ('[partial]\n9 = ["wall", "floor", "sofa"]', "leaves 0 of 3"),
        ("[partial]\n9 = []", "leaves 3 of 3"),
        ('[partial]\n1 = ["floor"]', "label value '1'"),
        ('[partial]\n254 = ["floor"]\n0254 = ["sofa"]', "label value '0254'"),
        ('[partial]\n255 = ["floor"]', "label value '255'"),
        ('partial = "floor"', "expected a table"),
    ],
)
def test_descriptions_that_make_no_sense_are_told(tmp_path: Path, table: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        load_dataset(dataset(tmp_path, [1], table), "train")


def test_more_sets_than_values_are_told() -> None:
    with pytest.raises(DatasetError, match="label values are free"):
        label_sets.number([(0,), (1,), (2,)], num_classes=253, ignore_label=255)


# --- figures ------------------------------------------------------------------------------------------------


def test_a_mask_of_floors_is_scored_for_floor_alone() -> None:
    """Hits 2, one floor pixel missed, two others called floor: 2 / 5. Of the 4 that are not floor 2 are right."""
    matrix = ConfusionMatrix(3, 255, (NOT_FLOOR,))
    label = np.array([1, 1, 1, 254, 254, 254, 254, 255])
    mask = np.array([1, 1, 0, 1, 1, 2, 0, 1])
    for part in (slice(0, 4), slice(4, 8)):
        matrix.update(label[part], mask[part])
    scores = matrix.scores()
    assert scores.class_iou[1] == pytest.approx(2 / 5)
    assert np.isnan(scores.class_iou[0])  # a sofa called wall would look the same
    assert np.isnan(scores.class_iou[2])
    assert scores.miou == scores.class_iou[1]
    assert scores.allacc == pytest.approx(4 / 7)
    assert scores.class_accuracy[1] == pytest.approx(2 / 3)


def test_floor_where_there_is_none_is_wrong() -> None:
    matrix = ConfusionMatrix(3, 255, (NOT_FLOOR,))
    matrix.update(np.array([254, 254, 255]), np.array([1, 2, 1]))
    assert matrix.scores().class_iou[1] == 0
    assert matrix.scores().allacc == 0.5


def test_without_such_pixels_nothing_changes() -> None:
    rng = np.random.default_rng(0)
    label, mask = rng.integers(0, 3, 200), rng.integers(0, 2, 200)
    plain, aware = ConfusionMatrix(3), ConfusionMatrix(3, 255, (NOT_FLOOR, NOT_SEAT))
    plain.update(label, mask)
    aware.update(label, mask)
    assert aware.scores() == plain.scores()
    assert plain.scores().class_iou[2] == 0


# --- learning -----------------------------------------------------------------------------------------------


def test_floor_is_learnt_from_floor_masks_and_the_rest_from_elsewhere() -> None:
    """Pixels are colours with noise. One source labels wall and sofa, the other only floor and what is not floor."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.eye(3)

    def pixels(classes: torch.Tensor) -> torch.Tensor:
        noisy = colours[classes] + 0.3 * torch.randn(*classes.shape, 3, generator=generator)
        return noisy.permute(0, 3, 1, 2)

    full = torch.randint(0, 2, (4, 16, 16), generator=generator) * 2  # wall and sofa
    truth = torch.randint(0, 3, (4, 16, 16), generator=generator)
    masks = torch.where(truth == 1, 1, 254)
    images, labels = torch.cat([pixels(full), pixels(truth)]), torch.cat([full, masks])
    net = torch.nn.Conv2d(3, 3, 1)
    criterion = SegmentationLoss(255, True, not_these=(NOT_FLOOR,))
    optimizer = torch.optim.SGD(net.parameters(), lr=2.0)
    for _ in range(60):
        optimizer.zero_grad()
        criterion(net(images), labels, criterion.count_valid(labels)).backward()
        optimizer.step()
    unseen = torch.randint(0, 3, (4, 16, 16), generator=generator)
    matrix = ConfusionMatrix(3)
    matrix.update(unseen.numpy(), net(pixels(unseen)).argmax(1).numpy())
    assert min(matrix.scores().class_iou) > 0.85
    assert F.cross_entropy(net(pixels(unseen)), unseen) < 0.3


def test_limits_keep_the_values(tmp_path: Path) -> None:
    found = load_dataset(dataset(tmp_path, [1, 9], '[partial]\n9 = ["floor"]'), "train")
    [joined] = join([replace(found, samples=found.samples[:1])])
    assert joined.not_these == found.not_these


def test_a_small_source_is_seen_more_often(tmp_path: Path) -> None:
    """As often as --repeat says, and only in training."""
    for name in ("large", "small"):
        path = dataset(tmp_path / name, [1], "")
        path.write_text(path.read_text() + '[splits.val]\nimages = "images"\nlabels = "labels"\n')
    data = (tmp_path / "large" / "dataset.toml", tmp_path / "small" / "dataset.toml")
    config = TrainConfig(data, tmp_path / "out", repeat=(1, 5))
    assert [len(found.samples) for found in load_datasets(config, "train")] == [1, 5]
    assert len(load_datasets(config, "val")[0].samples) == 1
    assert "repeat" not in json.loads(TrainConfig(data, tmp_path / "out").recorded())
    with pytest.raises(UsageError, match="expected 2 numbers"):
        TrainConfig(data, tmp_path / "out", repeat=(3,))
