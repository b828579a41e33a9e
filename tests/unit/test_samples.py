"""What training and evaluation are fed depends on seed, epoch and index only, and lies where it is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from segserve.image import read
from segserve.resize import to_input
from training import transforms
from training.data import Dataset, EvalSamples, TrainSamples
from training.description import Sample

MEAN, STD = (127.0, 120.0, 110.0), (128.0, 60.0, 50.0)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three photos of 40 x 30 noise, class 1 to the right, one ignored pixel."""
    label = np.zeros((30, 40), np.uint8)
    label[:, 20:] = 1
    label[0, 0] = 255
    samples = []
    for number in range(3):
        sample = Sample(tmp_path / f"{number}.png", tmp_path / f"{number}_label.png")
        photo = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(photo).save(sample.image)
        Image.fromarray(label).save(sample.label)
        samples.append(sample)
    return Dataset("noise", "train", ("left", "right"), 255, (), tuple(samples))


def items(samples: TrainSamples, epoch: int, workers: int = 0) -> list[torch.Tensor]:
    samples.set_epoch(epoch)
    loader = DataLoader(samples, batch_size=None, num_workers=workers)
    return [torch.cat([image, label[None].float()]) for image, label in loader]


def test_crops_depend_on_seed_epoch_and_index_only(dataset: Dataset) -> None:

    def make(seed: int) -> TrainSamples:
        return TrainSamples(dataset, 24, 32, seed, MEAN, STD)

    first = items(make(1), 3)
    assert [item.shape for item in first] == [(4, 24, 32)] * 3
    assert all(torch.equal(a, b) for a, b in zip(first, items(make(1), 3, workers=2), strict=True))
    assert torch.equal(make_item(make(1), 3, 2), first[2])  # without its predecessors
    assert not torch.equal(first[0], items(make(1), 4)[0])
    assert not torch.equal(first[0], items(make(2), 3)[0])


def test_the_same_photo_twice_gives_two_crops(dataset: Dataset) -> None:
    twice = replace(dataset, samples=(dataset.samples[0], dataset.samples[0]))
    first, second = items(TrainSamples(twice, 24, 32, 0, MEAN, STD), 0)
    assert not torch.equal(first, second)


def make_item(samples: TrainSamples, epoch: int, index: int) -> torch.Tensor:
    samples.set_epoch(epoch)
    image, label = samples[index]
    return torch.cat([image, label[None].float()])


def test_workers_that_persist_see_the_new_epoch(dataset: Dataset) -> None:
    samples = TrainSamples(dataset, 24, 32, 0, MEAN, STD)
    loader = DataLoader(samples, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        samples.set_epoch(epoch)
        got = [image for image, _ in loader]
        assert all(torch.equal(image, samples[index][0]) for index, image in enumerate(got))
    del loader


def test_train_item_is_normalised_and_padding_ignored(dataset: Dataset) -> None:
    still = transforms.Augmentation(1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    image, label = TrainSamples(dataset, 60, 40, 0, MEAN, STD, still)[0]
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64
    photo, expected = dataset.read(dataset.samples[0])
    rows = np.flatnonzero((label.numpy() != 255).any(axis=1))
    top = int(rows[0])
    restored = image.numpy().transpose(1, 2, 0) * np.array(STD) + np.array(MEAN)
    np.testing.assert_allclose(restored[top : top + 30], photo, atol=1e-3)
    np.testing.assert_array_equal(label[top : top + 30], expected)
    assert int((label == 255).sum()) == 30 * 40 + 1


def test_crops_smaller_than_the_input_show_a_part_at_the_served_scale(dataset: Dataset) -> None:
    still = transforms.Augmentation(1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    image, label = TrainSamples(dataset, 24, 40, 0, MEAN, STD, still, input_size=(30, 40))[0]
    photo, expected = dataset.read(dataset.samples[0])
    restored = image.numpy().transpose(1, 2, 0) * np.array(STD) + np.array(MEAN)
    (top,) = (top for top in range(7) if np.allclose(restored, photo[top : top + 24], atol=1e-3))
    np.testing.assert_array_equal(label, expected[top : top + 24])


def test_eval_item_is_the_served_input_with_the_label_in_place(dataset: Dataset) -> None:
    _, expected = dataset.read(dataset.samples[0])
    image, label = EvalSamples(dataset, 60, 60, MEAN, STD)[0]
    served, placed = to_input(read(dataset.samples[0].image.read_bytes(), input_size=(60, 60)), 60, 60)
    np.testing.assert_allclose(image.numpy().transpose(1, 2, 0) * STD + MEAN, served, atol=1e-3)
    assert (placed.content_height, placed.content_width) == (45, 60)
    content = label[placed.top : placed.top + 45, placed.left : placed.left + 60].numpy()
    rows, columns = (np.arange(45) + 0.5) * 30 / 45, (np.arange(60) + 0.5) * 40 / 60
    np.testing.assert_array_equal(content, expected[rows.astype(int)][:, columns.astype(int)])
    assert int((label != 255).sum()) == int((content != 255).sum())


def test_a_large_jpeg_is_evaluated_from_as_few_pixels_as_it_is_served_from(tmp_path: Path) -> None:
    sample = Sample(tmp_path / "photo.jpg", tmp_path / "label.png")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((240, 160)).save(sample.image)
    Image.new("L", (240, 160), 1).save(sample.label)
    item, label = EvalSamples(Dataset("one", "val", ("a", "b"), 255, (), (sample,)), 30, 30, MEAN, STD)[0]
    served = read(sample.image.read_bytes(), input_size=(30, 30))
    assert served.reduced == 4
    expected, _ = to_input(served, 30, 30)
    np.testing.assert_allclose(item.numpy().transpose(1, 2, 0) * STD + MEAN, expected, atol=1e-3)
    whole, _ = to_input(read(sample.image.read_bytes()), 30, 30)
    assert not np.array_equal(expected, whole)
    assert int((label == 1).sum()) == 20 * 30
