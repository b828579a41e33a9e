"""Evaluation as served: what it counts, what it writes, what it refuses."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segserve import encode
from segserve.errors import DatasetError, UsageError
from segserve.spec import SPEC_FILE, ModelSpec
from tests.integration.bands import CLASSES, SIZES, export_colours, write_dataset
from training import pspnet
from training.checkpoint import CheckpointMeta, save_checkpoint
from training.data import Dataset, load_dataset
from training.evaluate import EvaluateConfig, evaluate, main
from training.evaluated_model import load_segmenter
from training.metrics import ConfusionMatrix
from training.torch_engine import checkpoint_segmenter

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("bands"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights; its masks are nonsense, but always the same."""
    torch.manual_seed(0)
    model = pspnet.build("pspnet_lite0", len(CLASSES))
    mean, std = pspnet.normalisation("pspnet_lite0")
    meta = CheckpointMeta("pspnet_lite0", CLASSES, 255, mean, std, True, 64, 96, 0, {}, {})
    path = tmp_path_factory.mktemp("checkpoint") / "random.safetensors"
    save_checkpoint(path, model.state_dict(), meta)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_colours(tmp_path_factory.mktemp("exported"))


def test_counts_every_labelled_pixel_at_the_photos_own_size(description: Path, exported: Path) -> None:
    dataset = load_dataset(description, "val")
    masks: dict[str, NDArray[np.uint8]] = {}
    matrix = evaluate(
        load_segmenter(exported),
        dataset,
        dataset.samples,
        lambda s: masks.update({s.sample.image.stem: s.mask}),
    )
    assert [masks[str(number)].shape for number in range(4)] == list(SIZES)
    assert matrix.counts.sum() == sum(height * width - 5 for height, width in SIZES)
    scores = matrix.scores()
    assert min(scores.class_iou) > 0.75  # cells of 8 pixels cannot follow every edge
    again = ConfusionMatrix(3)
    for sample in dataset.samples:
        again.update(dataset.read(sample)[1], masks[sample.image.stem])
    np.testing.assert_array_equal(matrix.counts, again.counts)


@pytest.fixture
def run(run_here: Run) -> Run:
    return functools.partial(run_here, EvaluateConfig, main)


def test_command_line_of_the_docstring_works(description: Path, exported: Path, repo_root: Path) -> None:
    command = [sys.executable, "-m", "training.evaluate", str(exported), "--data", str(description), "--json"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["data"], report["split"], report["images"], report["engine"]) == (
        "bands",
        "val",
        4,
        "onnx",
    )
    assert report["miou"] > 0.75
    assert done.stderr == ""  # no progress bar where nobody watches


def test_checkpoint_prints_json_and_writes_the_masks_that_are_served(
    run: Run, description: Path, checkpoint: Path, tmp_path: Path
) -> None:
    code, out, err = run(checkpoint, "--data", description, "--json", "--save-masks", tmp_path / "masks")
    assert code == 0, err
    report = json.loads(out)
    assert report["engine"] == "torch"
    segmenter, dataset, matrix = (
        checkpoint_segmenter(checkpoint),
        load_dataset(description, "val"),
        ConfusionMatrix(3),
    )
    for sample in dataset.samples:
        written = (tmp_path / "masks" / f"{sample.image.stem}.png").read_bytes()
        mask = segmenter.segment(sample.image.read_bytes())
        assert written == encode.png(mask, segmenter.spec.palette_rgb)
        matrix.update(dataset.read(sample)[1], mask)
    scores = matrix.scores()
    assert report["miou"] == pytest.approx(scores.miou)
    assert report["allacc"] == pytest.approx(scores.allacc)
    for name, iou in zip(CLASSES, scores.class_iou, strict=True):
        assert report["classes"][name]["iou"] == (None if np.isnan(iou) else pytest.approx(iou))


def test_command_prints_a_table(run: Run, description: Path, exported: Path) -> None:
    code, out, err = run(exported, "--data", description, "--limit", 2)
    assert code == 0, err
    assert "on bands val, 2 images, onnx" in out
    for word in (*CLASSES, "mIoU", "mAcc", "allAcc"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt"], "expected a checkpoint (.safetensors), a folder"),
        (["missing.safetensors"], "no checkpoint at"),
        ([".", "--split", "test"], "no split 'test' (splits there: val)"),
        ([".", "--limit", "0"], "--limit is 0"),
    ],
)
def test_wrong_use_ends_with_2_and_says_why(
    run: Run, description: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run(*arguments, "--data", description)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_label_drawn_for_the_stored_orientation_is_refused(exported: Path, tmp_path: Path) -> None:
    dataset = load_dataset(write_dataset(tmp_path / "data"), "val")
    Image.new("L", (96, 128)).save(dataset.samples[0].label)
    with pytest.raises(DatasetError, match=r"0\.png: label is 96x128, .* 128x96; .*EXIF orientation"):
        evaluate(load_segmenter(exported), dataset, dataset.samples)


def test_unreadable_photo_is_named(exported: Path, tmp_path: Path) -> None:
    dataset = load_dataset(write_dataset(tmp_path / "data"), "val")
    dataset.samples[1].image.write_bytes(b"torn")
    with pytest.raises(DatasetError, match=r"images.1\.png: .*not an image"):
        evaluate(load_segmenter(exported), dataset, dataset.samples)


def test_dataset_with_other_classes_is_refused(description: Path, exported: Path) -> None:
    dataset = load_dataset(description, "val")
    other = Dataset("other", "val", ("floor", "wall", "ceiling"), 255, (), dataset.samples)
    with pytest.raises(
        DatasetError, match="other has the classes floor, wall, ceiling; the model has wall, floor"
    ):
        evaluate(load_segmenter(exported), other, other.samples)


def test_segmenter_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=r"model\.onnx: expected a checkpoint"):
        load_segmenter(tmp_path / "model.onnx")


def test_a_package_and_each_of_its_engines(
    run: Run, description: Path, exported: Path, tmp_path: Path
) -> None:
    spec = ModelSpec.load(exported / SPEC_FILE)
    (onnx_fp32,) = spec.artefacts
    # this graph is the same in whatever it is said to compute
    both = (onnx_fp32, replace(onnx_fp32, engine="openvino"), replace(onnx_fp32, precision="int8"))
    replace(spec, artefacts=both).save(tmp_path / SPEC_FILE)
    with zipfile.ZipFile(tmp_path / "colours.mar", "w") as archive:
        archive.write(tmp_path / SPEC_FILE, SPEC_FILE)
        archive.write(exported / onnx_fp32.file, onnx_fp32.file)
    answers = {}
    for engine, chosen in (
        ("onnx", ()), ("openvino", ("--engine", "openvino-fp32")), ("onnx-int8", ("--engine", "onnx-int8")),
    ):  # fmt: skip
        code, out, _ = run(tmp_path / "colours.mar", "--data", description, *chosen, "--json")
        assert code == 0
        answers[engine] = json.loads(out)
        assert answers[engine]["engine"] == engine
    assert answers["openvino"]["classes"] == answers["onnx"]["classes"] == answers["onnx-int8"]["classes"]
    assert answers["onnx"]["miou"] > 0.9

    code, _, err = run(tmp_path / "colours.mar", "--data", description, "--engine", "tensorrt")
    assert (code, "there are onnx, openvino, onnx-int8" in err) == (2, True)


def test_what_is_no_package(run: Run, description: Path, checkpoint: Path, tmp_path: Path) -> None:
    for name, said in (
        ("broken", "not a zip file"), ("empty", "no item named 'model_spec.json'"), ("torn", "Bad CRC-32"),
    ):  # fmt: skip
        what = tmp_path / f"{name}.mar"
        with zipfile.ZipFile(what, "w") as archive:
            if name == "torn":
                archive.writestr(SPEC_FILE, "a spec")
        if name != "empty":
            content = what.read_bytes() if name == "torn" else b"no archive"
            what.write_bytes(content.replace(b"a spec", b"a spek"))
        code, _, err = run(what, "--data", description)
        assert code == 2
        assert f"{what.name}: expected a .mar" in err.replace("\n", "")
        assert said in err.replace("\n", " ")
    with zipfile.ZipFile(tmp_path / "wrong.mar", "w") as archive:
        archive.writestr(SPEC_FILE, "{}")
    code, _, err = run(tmp_path / "wrong.mar", "--data", description)
    assert (code, "wrong.mar: " in err) == (2, True)
    code, _, err = run(checkpoint, "--data", description, "--engine", "onnx")
    assert (code, "which PyTorch runs" in err) == (2, True)


def test_report_names_the_worst_photo_and_what_was_confused(run: Run, exported: Path, tmp_path: Path) -> None:
    dataset = load_dataset(write_dataset(tmp_path / "data"), "val")
    wrong = np.full(SIZES[1], 0, np.uint8)  # all wall, where the photo shows a third of each
    Image.fromarray(wrong).save(dataset.samples[1].label)
    code, out, err = run(
        exported, "--data", tmp_path / "data/dataset.toml", "--report", tmp_path / "page", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "page/report.json").read_text())
    assert Path(found["worst"][0]["image"]).name == "1.png"
    assert found["worst"][0]["wrong"] == pytest.approx(2 / 3, abs=0.1)
    assert found["worst"][0]["most"].startswith("wall taken for ceiling: ")
    assert found["pairs"][0]["classes"] == ["wall", "ceiling"]
    assert sum(map(sum, found["confusion"])) == sum(height * width for height, width in SIZES) - 3 * 5
    assert 0.3 < found["boundary_f1"] <= 1
    assert 0 < found["calibration_error"] < 1
    page = (tmp_path / "page/report.html").read_text()
    assert page.index("1.png: ") < page.index("0.png: ")
    assert page.count("<img") == 4 * len(SIZES)
    assert (tmp_path / "page/confusion.svg").read_text() in page


def test_report_shows_photos_whatever_their_names(run: Run, exported: Path, tmp_path: Path) -> None:
    """Latin-1, as a zip from Windows leaves them."""
    description = write_dataset(tmp_path / "data")
    for folder in ("images", "labels"):
        file = tmp_path / "data" / folder / "0.png"
        file.rename(file.with_name(os.fsdecode(b"k\xfcche.png")))
    code, _, err = run(exported, "--data", description, "--report", tmp_path / "page", "--json")
    assert code == 0, err
    assert "k\\udcfcche.png: " in (tmp_path / "page/report.html").read_text(encoding="utf-8")


def test_looks_that_the_server_does_not_take_are_said(run: Run, description: Path, exported: Path) -> None:
    served = json.loads(run(exported, "--data", description, "--json")[1])
    code, out, err = run(exported, "--data", description, "--flip", "--scales", 1, 2, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert served["ways"] == "as served"
    assert found["ways"] == {"scales": [1.0, 2.0], "flip": True, "sliding": False}
    assert found["miou"] > served["miou"]  # cells of 4 pixels follow the edges more closely than those of 8
