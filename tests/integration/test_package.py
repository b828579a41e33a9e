"""Packages: what is in them, what runs out of them alone, and what is not packed or not accepted."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from export.package import package
from segserve.package import check_package
from segserve.segmenter import Segmenter
from segserve.spec import ModelSpec
from training.rooms import render

GOLDEN = {f"golden-{n}{kind}" for n in (1, 2, 3, 4) for kind in (".jpg", "-mask.png")}
"""Rendered rooms, where no folder of photos is given."""


def contents(mar: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(mar) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_a_package_holds_what_serving_needs_and_no_more(tiny_build: Path, repo_root: Path) -> None:
    files = contents(tiny_build / "tiny.mar")
    core = {str(path.relative_to(repo_root)) for path in (repo_root / "segserve").rglob("*.py")}
    assert set(files) == core | {
        "model.onnx", "model_spec.json", "parity.json", "segmentation_handler.py", "model-config.yaml",
        "MAR-INF/MANIFEST.json", "torch/__init__.py", *GOLDEN,
    }  # fmt: skip
    assert files["segserve/mask.py"] == (repo_root / "segserve" / "mask.py").read_bytes()
    assert files["model.onnx"] == (tiny_build / "model.onnx").read_bytes()
    assert files["parity.json"] == (tiny_build / "parity.json").read_bytes()
    manifest = json.loads(files["MAR-INF/MANIFEST.json"])["model"]
    assert (manifest["modelName"], manifest["modelVersion"]) == ("tiny", "1.2")
    assert manifest["handler"] == "segmentation_handler.py"
    assert manifest["configFile"] == "model-config.yaml"


def test_check_package_tells_what_is_in_it(tiny_build: Path) -> None:
    spec = check_package(tiny_build / "tiny.mar")
    assert (spec.name, spec.version, spec.engine) == ("tiny", "1.2", "onnx")
    assert [artefact.file for artefact in spec.artefacts] == ["model.onnx"]
    assert spec.parity["onnx"]["label_agreement"] >= 0.9999


def test_packages_differ_in_nothing_but_the_archivers_time(good_build: Path) -> None:
    first = contents(good_build / "tiny.mar")
    second = contents(package(good_build))
    manifests = [json.loads(files.pop("MAR-INF/MANIFEST.json")) for files in (first, second)]
    assert first == second
    for manifest in manifests:
        del manifest["createdOn"]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize(
    ("latency_ms", "batch_size"), [({"1": 5.0, "8": 10.0}, 8), ({"1": 5.0, "8": 40.0}, 2)]
)
def test_the_batch_size_that_was_measured_to_pay_is_packed(
    good_build: Path, latency_ms: dict[str, float], batch_size: int
) -> None:
    spec = ModelSpec.load(good_build / "model_spec.json")
    table = {"table": [{"name": spec.engine, "latency_ms": latency_ms}]}
    dataclasses.replace(spec, choice=table).save(good_build / "model_spec.json")
    config = yaml.safe_load(contents(package(good_build))["model-config.yaml"])
    assert config["batchSize"] == batch_size


def test_models_of_one_name_can_be_packed_at_once(tiny_build: Path, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(tiny_build, tmp_path / str(n))) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        packages = list(pool.map(package, folders))
    assert {check_package(mar).checkpoint_sha256 for mar in packages} == {
        ModelSpec.load(tiny_build / "model_spec.json").checkpoint_sha256
    }


@pytest.mark.parametrize("name", ["rooms, v2", "[a-c]*?"])
def test_a_folder_may_have_a_name_with_commas_and_brackets(
    tiny_build: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_build, tmp_path / name)
    (tmp_path / name / "tiny.mar").unlink()
    monkeypatch.chdir(tmp_path)
    assert package(Path(name)) == Path(name, "tiny.mar")
    assert set(contents(tmp_path / name / "tiny.mar")) == set(contents(tiny_build / "tiny.mar"))
    assert not [path for path in (tmp_path / name).iterdir() if path.is_dir()]


def test_an_unpacked_package_segments_by_itself(tiny_build: Path, tmp_path: Path) -> None:
    """In a Python that does not see the repository, as in a TorchServe worker."""
    model_dir = tmp_path / "model"
    with zipfile.ZipFile(tiny_build / "tiny.mar") as archive:
        archive.extractall(model_dir)
    image, _ = render(3, 90, 140)
    Image.fromarray(image).save(tmp_path / "room.jpg")
    program = """
import sys
sys.path.insert(0, "model")
import numpy, segmentation_handler, segserve.segmenter
from pathlib import Path
assert Path(segserve.__file__).is_relative_to(Path("model").resolve()), segserve.__file__
assert "torch" not in sys.modules, "the ONNX engine needs no torch"
labels = segserve.segmenter.Segmenter.load(Path("model"), threads=1).segment(Path("room.jpg").read_bytes())
numpy.save("labels.npy", labels)
print(segmentation_handler.SegmentationHandler.__name__)
"""
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "SegmentationHandler"
    expected = Segmenter.load(tiny_build, threads=1).segment((tmp_path / "room.jpg").read_bytes())
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected)


def test_a_worker_imports_torch_only_if_its_engine_does(tiny_build: Path, tmp_path: Path) -> None:
    """As TorchServe starts it: its own modules, which import torch, then the handler, with the model's path first."""
    model_dir = tmp_path / "model"
    with zipfile.ZipFile(tiny_build / "tiny.mar") as archive:
        archive.extractall(model_dir)
    program = """
import os, sys
import ts.model_service_worker  # before the model
from ts.context import Context
import segmentation_handler
context = Context("tiny", os.environ["PYTHONPATH"].rstrip(":"), {}, 2, None, "0.12.0", model_yaml_config={})
segmentation_handler.SegmentationHandler().initialize(context)
assert "torch" not in sys.modules
import torch  # as an engine would that needs it
print(torch.ones(2).sum().item(), segmentation_handler.__file__)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=model_dir, env={**os.environ, "PYTHONPATH": f"{model_dir}:"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["2.0", str(model_dir / "segmentation_handler.py")]
