"""Self-training's labels: what is open is filled where the model is sure, and nothing else is touched."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.integration.bands import CLASSES, SIZES, export_colours, write_dataset
from training.data import load_dataset
from training.label_sets import NotThese
from training.self_label import SelfLabelConfig, main

WALL, FLOOR, CEILING = range(3)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_colours(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """The bands, labelled in part, in values of their own: 100 is ignored, 99 is no floor."""
    path = write_dataset(tmp_path / "bands")
    for number, (height, _) in enumerate(SIZES):
        file = path.parent / "labels" / f"{number}.png"
        label = np.asarray(Image.open(file)).copy()
        label[label == 255] = 100
        label[: height // 6] = 100  # wall
        label[height // 6 : height // 3] = 99  # wall
        label[-(height // 6) :] = 99  # floor and ceiling: the label has it that there is no floor
        label[height // 3 : height // 3 + 4] = FLOOR  # in truth ceiling; a person said so
        Image.fromarray(label).save(file)
    text = path.read_text().replace("[splits.val]", '[partial]\n99 = ["floor"]\n[splits.train]')
    path.write_text(text.replace("classes =", "ignore_label = 100\nclasses ="))
    return path


@pytest.fixture
def run(run_here: Run) -> Run:
    return functools.partial(run_here, SelfLabelConfig, main)


def inner(label: NDArray[np.uint8], top: int, bottom: int) -> NDArray[np.uint8]:
    """Rows of the right half, without those whose cells reach over an edge."""
    return label[top + 6 : bottom - 6, label.shape[1] // 2 :]


def test_open_pixels_are_filled_and_others_stay(
    run: Run, description: Path, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "filled"
    code, told, err = run(exported, "--data", description, "--out", out, "--json")
    assert code == 0, err
    before, after = load_dataset(description, "train"), load_dataset(out / "dataset.toml", "train")
    assert after.classes == CLASSES
    assert after.not_these == (NotThese(254, (FLOOR,)),)
    counts = np.zeros(3)
    for old, new in zip(before.samples, after.samples, strict=True):
        photo, label = before.read(old)
        filled_photo, filled = after.read(new)
        height = len(label)
        np.testing.assert_array_equal(filled_photo, photo)
        labelled = label < len(CLASSES)
        np.testing.assert_array_equal(filled[labelled], label[labelled])
        assert set(np.unique(filled[label == before.ignore_label])) <= {WALL, CEILING, 255}
        assert FLOOR not in filled[label == before.not_these[0].value]  # though the model sees it there
        if height > 90:  # rows enough between the edges
            assert (inner(filled, 0, height // 3) == WALL).all()
            assert (inner(filled, height - height // 6, height) == 254).all()
        counts += np.bincount(filled[filled < 3], minlength=3)
    shares = json.loads(told)["shares"]
    assert [row["class"] for row in shares] == [*CLASSES, None]
    whole = sum(height * width for height, width in SIZES)
    assert [row["after"] for row in shares[:3]] == pytest.approx(counts / whole)
    assert shares[WALL]["before"] == 0 < shares[WALL]["after"]
    assert (out / "contact_sheet.png").is_file()


def test_a_model_that_is_not_sure_fills_nothing(run: Run, description: Path, tmp_path: Path) -> None:
    unsure = export_colours(tmp_path / "unsure", scale=1e-7)
    code, told, err = run(unsure, "--data", description, "--out", tmp_path / "filled")
    assert code == 0, err
    assert "wall: 0.0 to 0.0 % of the pixels" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--sure": "1.5"}, "--sure 1.5: expected a probability"),
        ({"--split": "val"}, "no split 'val'"),
        ({"--out": "{description.parent}"}, "is not an empty folder"),
    ],
)
def test_refusals_say_what_to_do(
    run: Run, changes: dict[str, str], message: str, description: Path, exported: Path, tmp_path: Path
) -> None:  # fmt: skip
    options = {"--data": str(description), "--out": str(tmp_path / "filled")} | changes
    arguments = [text.format(description=description) for pair in options.items() for text in pair]
    code, _, err = run(exported, *arguments)
    assert code == 2
    assert message in err


def test_a_bad_label_leaves_nothing_in_the_way(
    run: Run, description: Path, exported: Path, tmp_path: Path
) -> None:
    file = description.parent / "labels" / "1.png"
    good = file.read_bytes()
    file.write_bytes(b"no PNG")
    code, _, err = run(exported, "--data", description, "--out", tmp_path / "filled")
    assert code != 0
    assert "not a readable PNG" in err
    file.write_bytes(good)
    code, _, err = run(exported, "--data", description, "--out", tmp_path / "filled")
    assert code == 0, err


def test_a_name_that_no_list_can_hold_is_told_before_the_work(
    run: Run, description: Path, exported: Path, tmp_path: Path
) -> None:
    for folder in ("images", "labels"):
        file = description.parent / folder / "1.png"
        file.rename(file.with_name(os.fsdecode(b"k\xfcche.png")))
    code, _, err = run(exported, "--data", description, "--out", tmp_path / "filled")
    assert code == 2
    assert "must be UTF-8; rename k\\udcfcche.png, 1 in all" in err
    assert not (tmp_path / "filled").exists()


def test_a_model_of_other_classes_is_refused(
    run: Run, description: Path, exported: Path, tmp_path: Path
) -> None:
    description.write_text(description.read_text().replace('"ceiling"', '"roof"'))
    code, _, err = run(exported, "--data", description, "--out", tmp_path / "filled")
    assert code != 0
    assert "they must be the same, in the same order" in err
    assert not (tmp_path / "filled").exists()
