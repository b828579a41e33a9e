"""Objects of one crop lie over another with their labels; what lies where depends on seed, epoch and index only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from segserve.errors import UsageError
from tests.integration.painted import config, paint
from training import train
from training.batches import TrainBatches
from training.data import Dataset, TrainSamples, load_dataset
from training.description import Sample
from training.distributed import Processes
from training.options import PasteOptions
from training.paste import Pasted

CLASSES = ("wall", "floor", "chair", "table")
MEAN, STD = (127.0, 120.0, 110.0), (128.0, 60.0, 50.0)
ONE = Processes(0, 1, torch.device("cpu"))


def plain(folder: Path, value: int, count: int, box: int | None = None) -> Dataset:
    """Photos of noise labelled `value`, with a box of class `box` in the middle."""
    folder.mkdir()
    samples = []
    for number in range(count):
        sample = Sample(folder / f"{number}.png", folder / f"{number}_label.png")
        photo = np.random.default_rng((value, number)).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        label = np.full((40, 60), value, np.uint8)
        if box is not None:
            label[10:30, 15:45] = box
        Image.fromarray(photo).save(sample.image)
        Image.fromarray(label).save(sample.label)
        samples.append(sample)
    return Dataset(folder.name, "train", CLASSES, 255, (), tuple(samples))


@pytest.fixture
def parts(tmp_path: Path) -> list[TrainSamples]:
    """Three floors, and four walls with a chair."""
    floors, chairs = plain(tmp_path / "floors", 1, 3), plain(tmp_path / "chairs", 0, 4, box=2)
    return [TrainSamples(dataset, 24, 32, 5, MEAN, STD) for dataset in (floors, chairs)]


def test_objects_lie_over_other_crops_with_their_labels_and_nothing_else_changes(
    parts: list[TrainSamples],
) -> None:
    pasted = Pasted(parts, ["chair"], 1.0)
    assert len(pasted) == 7
    over_floors = 0
    for epoch in range(4):
        for part in parts:
            part.set_epoch(epoch)
        own = [part[index] for part in parts for index in range(len(part))]
        for index, (image, label) in enumerate(pasted[index] for index in range(7)):
            below, below_label = own[index]
            assert any(
                torch.equal(image, torch.where(there == 2, other, below))
                and torch.equal(label, torch.where(there == 2, there, below_label))
                for other, there in own
            ), "it is no crop with all objects of one other in their places"
            over_floors += index < 3 and bool((label == 2).any())
    assert over_floors >= 3


def test_classes_that_are_no_objects_are_not_pasted(parts: list[TrainSamples]) -> None:
    pasted = Pasted(parts, ["table"], 1.0)
    for index in range(3):
        assert torch.equal(pasted[index][0], parts[0][index][0])


def test_the_share_of_crops_is_as_asked(parts: list[TrainSamples]) -> None:
    whole = Pasted([parts[1]], ["wall", "chair"], 0.25)  # of every donor its whole content
    same = []
    for epoch in range(75):
        parts[1].set_epoch(epoch)
        same += [torch.equal(whole[index][0], parts[1][index][0]) for index in range(4)]
    # of 300: three quarters, and a quarter of the rest, which meets itself; 5 standard deviations are 0.11
    assert np.mean(same) == pytest.approx(0.75 + 0.25 / 4, abs=0.12)


def test_what_is_pasted_depends_on_seed_epoch_and_index_only(parts: list[TrainSamples]) -> None:
    pasted = Pasted(parts, ["chair"], 1.0)

    def labels(epoch: int, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        for part in parts:
            part.set_epoch(epoch)
        return torch.stack([label for _, label in loader])

    here = DataLoader(pasted, batch_size=None)
    workers = DataLoader(pasted, batch_size=None, num_workers=2, persistent_workers=True)
    found = [labels(epoch, here) for epoch in (3, 4)]
    assert not torch.equal(*found)
    # workers keep the copies that they started with
    assert all(torch.equal(labels(epoch, workers), found[epoch - 3]) for epoch in (3, 4))
    assert torch.equal(pasted[2][1], found[1][2])  # without its predecessors


def test_a_training_pastes_what_its_options_say(tmp_path: Path) -> None:
    description = paint(tmp_path / "data")
    datasets = [load_dataset(description, "train")]

    def labels(options: PasteOptions) -> torch.Tensor:
        training = TrainBatches(config(description, out=tmp_path, paste=options), ONE, datasets)
        training.begin(0)
        return torch.cat([label for _, label in training])

    def share(options: PasteOptions) -> float:
        return float((labels(options) == 2).float().mean())

    assert share(PasteOptions(("box",), 1.0)) > 1.1 * share(PasteOptions())
    wrong = config(description, out=tmp_path / "out", paste=PasteOptions(("box", "sofa")))
    with pytest.raises(UsageError, match="--paste sofa: the classes are wall, floor, box"):
        train.main(wrong)
    assert not wrong.out.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"paste": ("box",), "paste_probability": 0.0}, "expected more than 0, at most 1"),
        ({"paste": ("box",), "paste_probability": 1.5}, "expected more than 0, at most 1"),
        ({"paste_probability": 0.2}, "give --paste too"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PasteOptions(**wrong)  # type: ignore[arg-type]


def test_resuming_knows_what_was_pasted_and_trainings_from_before_go_on(tmp_path: Path) -> None:
    def recorded(paste: PasteOptions) -> dict[str, object]:
        found: dict[str, object] = json.loads(config(tmp_path, out=tmp_path, paste=paste).recorded())
        return found

    assert recorded(PasteOptions(("box",))) == recorded(PasteOptions()) | {"paste": ["box"]}
    assert recorded(PasteOptions()).keys().isdisjoint(("paste", "paste_probability"))
