"""export.build --engine auto, whole, on a tiny model: what fails is dropped, what is fastest is chosen and packed."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import pytest
import torch

from export import build, choose, quantise
from segserve import thresholds
from segserve.spec import SPEC_FILE, ModelSpec
from tests.integration.conftest import build_quickly, know_tiny


@pytest.fixture(scope="module")
def built(built_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a build in which no int8 can pass, and NNCF's first attempt is taken."""
    folder = tmp_path_factory.mktemp("auto")
    beyond = dataclasses.replace(thresholds.THRESHOLDS["int8"], label_agreement=1.1)
    with pytest.MonkeyPatch.context() as patch:
        know_tiny(patch)
        build_quickly(patch, built_once)
        patch.setitem(thresholds.THRESHOLDS, "int8", beyond)
        patch.setattr(quantise, "MIN_AGREEMENT", 0.0)
        patch.setattr(choose, "MEASURE_S", 1.0)
        build.main(build.BuildConfig(built_once / "tiny.safetensors", folder, engine="auto"))
    return folder


def test_the_fastest_of_what_passed_is_served_and_the_table_says_why(built: Path) -> None:
    spec = ModelSpec.load(built / SPEC_FILE)
    table = spec.choice["table"]
    passed = [row for row in table if row["passed"]]
    assert {"onnx", "torchscript", "openvino"} <= {row["name"] for row in passed}
    assert spec.engine == passed[0]["name"]
    speeds = [row["images_per_s"] for row in passed]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[0] > 0
    if not torch.cuda.is_available():
        assert all("GPU" in spec.choice["left_out"][name] for name in ("onnx_cuda", "torchscript-fp16"))


def test_what_fails_parity_is_measured_and_dropped(built: Path) -> None:
    spec = ModelSpec.load(built / SPEC_FILE)
    assert {"openvino-int8", "onnx-int8"} <= {
        row["name"] for row in spec.choice["table"] if not row["passed"]
    }
    assert all(row["reason"] for row in spec.choice["table"] if not row["passed"])
    assert "int8" not in {artefact.precision for artefact in spec.artefacts}
    left_out = {
        entry["name"]: entry["failures"]
        for entry in json.loads((built / "parity.json").read_text())["left_out"]
    }
    for name in ("openvino-int8", "onnx-int8"):
        assert any("(expected 110 %) of the labels agree" in failure for failure in left_out[name])


def test_the_package_holds_what_runs_elsewhere_too(built: Path) -> None:
    with zipfile.ZipFile(built / "rooms.mar") as mar:
        names = set(mar.namelist())
        packed = json.loads(mar.read(SPEC_FILE))["artefacts"]
    assert "model.onnx" in names
    assert "model.int8.onnx" not in names
    assert "onnx" in {artefact["engine"] for artefact in packed}
    assert {artefact["file"] for artefact in packed} <= names
