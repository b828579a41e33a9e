"""export.build on a tiny model: what it writes, what its report says, and how it fails."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from export import build, cases, variants
from export.cases import INPUT_SIZES
from export.served_net import ServedNet
from export.to_torchscript import to_torchscript
from segserve import cli
from segserve import parity_report as report
from segserve.engines import load_engine
from segserve.errors import CheckFailed, UsageError
from segserve.package import check_package
from segserve.parity_row import AS_SERVED, AT_INPUT_SIZE, Row
from segserve.segmenter import Segmenter
from segserve.spec import ModelSpec, sha256_file
from training.checkpoint import load_checkpoint, load_model, save_checkpoint
from training.rooms import render
from training.torch_engine import checkpoint_segmenter

ENGINES = ["onnx", "torchscript"]


@pytest.fixture
def torchscript_alone(quickly: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is made and compared, on small pictures."""
    monkeypatch.setattr(variants, "NEUTRAL", ())


def segmenter(folder: Path, engine: str) -> Segmenter:
    spec = ModelSpec.load(folder / "model_spec.json")
    (artefact,) = (a for a in spec.artefacts if a.engine == engine)
    one = spec.__class__(**{**spec.__dict__, "engine": artefact.engine})
    return Segmenter(one, load_engine(one, folder, threads=1))


def test_the_spec_describes_the_files_and_the_checkpoint(tiny_build: Path) -> None:
    spec = ModelSpec.load(tiny_build / "model_spec.json")
    _, meta = load_model(tiny_build / "tiny.safetensors")
    assert (spec.name, spec.version, spec.engine) == ("tiny", "1.2", "onnx")
    assert spec.classes == meta.classes
    assert (spec.input.height, spec.input.width) == (97, 136)
    assert (spec.input.mean, spec.input.std) == (meta.mean, meta.std)
    assert spec.align_corners is meta.align_corners
    assert spec.checkpoint_sha256 == sha256_file(tiny_build / "tiny.safetensors")
    assert [a.engine for a in spec.artefacts] == ENGINES
    for artefact in spec.artefacts:
        path = tiny_build / artefact.file
        assert (artefact.sha256, artefact.num_bytes) == (sha256_file(path), path.stat().st_size)
    assert spec.versions["torch"] == torch.__version__
    assert spec.parity["passed"] is True
    assert spec.parity["onnx"]["label_agreement"] >= 0.9999


def test_the_report_covers_batches_and_input_sizes(tiny_build: Path) -> None:
    parity = report.load(tiny_build / "parity.json")
    assert parity["passed"] is True
    assert len(parity["reference"]["classes_seen"]) > 1
    for entry in parity["artefacts"]:
        rows = [Row(**row) for row in entry["rows"]]
        assert {row.batch_size for row in rows if row.kind == AS_SERVED} == {1, 2, 5}
        sizes = {(row.height, row.width) for row in rows if row.kind == AT_INPUT_SIZE}
        assert sizes == {*INPUT_SIZES, (97, 136)}
        together = {
            (row.height, row.width) for row in rows if row.image.endswith("-mirrored") and row.batch_size == 2
        }
        assert together == sizes
        assert sum(height % 8 != 0 and width % 8 != 0 for height, width in sizes) >= 5
        # a photo lies on its side in its file, and its mask stands upright
        assert (480, 360) in {(row.height, row.width) for row in rows if row.kind == AS_SERVED}
        assert max(row.max_abs_error for row in rows) <= entry["summary"]["allowed_error"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 250), (123, 77)])
def test_artefacts_take_any_batch_and_size(tiny_build: Path, engine: str, size: tuple[int, int]) -> None:
    images_nhwc = np.random.default_rng(1).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    expected = checkpoint_segmenter(tiny_build / "tiny.safetensors").engine(images_nhwc)
    logits = segmenter(tiny_build, engine).engine(images_nhwc)
    assert logits.shape == (3, 11, -(-size[0] // 8), -(-size[1] // 8))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)


def test_what_was_proven_in_fp32_is_not_served_in_tf32(tiny_build: Path) -> None:
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]  # monkeypatch cannot put these back
    try:
        for switch in switches:
            switch.allow_tf32 = True
        segmenter(tiny_build, "torchscript")
        assert [switch.allow_tf32 for switch in switches] == [False, False]
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


@pytest.mark.parametrize("engine", ENGINES)
def test_the_served_mask_is_the_checkpoints(tiny_build: Path, engine: str, tmp_path: Path) -> None:
    image, _ = render(5, 211, 160)
    Image.fromarray(image).save(tmp_path / "room.png")
    data = (tmp_path / "room.png").read_bytes()
    expected = checkpoint_segmenter(tiny_build / "tiny.safetensors").segment(data)
    assert len(np.unique(expected)) > 1
    assert (segmenter(tiny_build, engine).segment(data) == expected).mean() >= 0.9999


def test_the_onnx_file_keeps_nothing_of_this_machine(tiny_build: Path, repo_root: Path) -> None:
    data = (tiny_build / "model.onnx").read_bytes()
    assert str(repo_root).encode() not in data
    assert b"stack_trace" not in data
    model = onnx.load(tiny_build / "model.onnx")
    assert [i.name for i in model.graph.input] == ["images_nhwc"]
    assert [o.name for o in model.graph.output] == ["logits_nchw"]
    assert {op.domain: op.version for op in model.opset_import}[""] == 18
    # pooling and upsampling stay matrix products: nothing in the pyramid gathers or resizes
    assert not {"GatherND", "GatherElements", "Resize", "AveragePool"} & {n.op_type for n in model.graph.node}


@pytest.mark.usefixtures("torchscript_alone")
def test_photos_of_a_folder_are_compared_too_evenly_chosen_where_they_are_many(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(5):
        image, _ = render(index, 60 + index, 80)
        Image.fromarray(image).save(photos / f"mine-{index}.png")
    out = tmp_path / "out"
    monkeypatch.setattr(cases, "MAX_FILES", 3)
    build.main(build.BuildConfig(tiny_build / "tiny.safetensors", out, engine="torchscript", images=photos))
    assert f"compared on 3 of the 5 files in {photos}" in capsys.readouterr().out.replace("\n", "")
    rows = report.load(out / "parity.json")["artefacts"][0]["rows"]
    assert {name for row in rows if (name := row["image"]).startswith("mine-")} == {
        "mine-0.png", "mine-1.png", "mine-3.png",
    }  # fmt: skip
    spec = check_package(out / "rooms.mar")
    assert spec.engine == "torchscript"


def break_artefact(served: ServedNet, path: Path) -> None:
    """Export the network with the bias of one class raised, so that it finds that class everywhere."""
    with torch.no_grad():
        served.net.classifier.bias[1] += 1000  # type: ignore[operator, index, union-attr]
    to_torchscript(served, path)


@pytest.mark.usefixtures("torchscript_alone")
def test_a_failed_comparison_stops_the_build(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(variants, "to_torchscript", break_artefact)
    (tmp_path / "rooms.mar").write_bytes(b"of an earlier build")
    monkeypatch.setattr(
        sys, "argv",
        ["build", str(tiny_build / "tiny.safetensors"), "--out", str(tmp_path), "--engine", "torchscript", "--json"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as exit_:
        cli.run(build.BuildConfig, build.main)
    assert exit_.value.code == 1
    printed, message = capsys.readouterr()
    document = json.loads(printed)
    assert (document["passed"], document["mar"]) == (False, None)
    assert document["parity"]["torchscript"]["max_abs_error"] > 100
    assert "model.pt (torchscript): room-97x131.jpg (as served, batch of 1)" in message
    assert "a logit of class floor is off by" in message
    assert "class floor loses" not in message  # it is found everywhere now, so the others lose
    vanished = set(re.findall(r"vanished: (\w+)", message))
    assert vanished
    assert "floor" not in vanished
    assert not (tmp_path / "rooms.mar").exists()
    assert report.load(tmp_path / "parity.json")["passed"] is False


@pytest.mark.usefixtures("torchscript_alone")
def test_json_goes_to_standard_output_alone(
    tiny_build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build.main(
        build.BuildConfig(tiny_build / "tiny.safetensors", tmp_path, engine="torchscript", as_json=True)
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] is True
    assert printed["mar"] == str(tmp_path / "rooms.mar")
    assert printed["parity"]["torchscript"]["comparisons"] == 8 + 3 * (12 + 1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"name": "a/b"}, "part of a URL"), ({"name": ""}, "part of a URL"), ({"version": "v1"}, "such as 1.0")],
)
def test_names_that_cannot_be_served_are_refused(
    options: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        build.BuildConfig(tmp_path / "x.safetensors", tmp_path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, b"no image"])
def test_unusable_folders_of_photos_are_refused(
    tiny_build: Path, tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "NEUTRAL", ())
    photos = tmp_path / "photos"
    photos.mkdir()
    if content is not None:
        (photos / "note.jpg").write_bytes(content)
    config = build.BuildConfig(
        tiny_build / "tiny.safetensors", tmp_path / "out", engine="torchscript", images=photos
    )
    with pytest.raises(UsageError, match="no files in it" if content is None else "note.jpg"):
        build.main(config)


def test_a_checkpoint_with_a_weight_that_is_no_number_is_refused(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, meta = load_checkpoint(tiny_build / "tiny.safetensors")
    state["head.3.weight"][2, 5] = torch.nan
    save_checkpoint(tmp_path / "nan.safetensors", state, meta)
    monkeypatch.setattr(variants, "NEUTRAL", ())
    with pytest.raises(CheckFailed, match=r"logits on room-480x640\.jpg are not finite"):
        build.main(build.BuildConfig(tmp_path / "nan.safetensors", tmp_path / "out", engine="torchscript"))
    assert not (tmp_path / "out" / "rooms.mar").exists()


def test_a_model_that_ignores_the_picture_proves_nothing(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, meta = load_checkpoint(tiny_build / "tiny.safetensors")
    state["head.3.weight"] *= 1e-6
    save_checkpoint(tmp_path / "flat.safetensors", state, meta)
    monkeypatch.setattr(variants, "NEUTRAL", ())
    with pytest.raises(CheckFailed, match="train it first"):
        build.main(build.BuildConfig(tmp_path / "flat.safetensors", tmp_path / "out", engine="torchscript"))
