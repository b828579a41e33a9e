"""Packages: what is in them, what runs out of them alone, and what is not packed or not accepted."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import report
from export.package import check_package, package
from segserve.errors import CheckFailed
from segserve.segmenter import Segmenter
from segserve.spec import ModelSpec
from training.rooms import render

GOLDEN = {f"golden-{n}{kind}" for n in (1, 2, 3, 4) for kind in (".jpg", "-mask.png")}
"""Rendered rooms, where no folder of photos is given."""


@pytest.fixture
def folder(tiny_build: Path, tmp_path: Path) -> Path:
    """A copy of a good build, to spoil."""
    return Path(shutil.copytree(tiny_build, tmp_path / "build"))


def contents(mar: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(mar) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def rewrite(mar: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change the files in a .mar."""
    files = contents(mar)
    change(files)
    with zipfile.ZipFile(mar, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


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


def test_packages_differ_in_nothing_but_the_archivers_time(folder: Path) -> None:
    first = contents(folder / "tiny.mar")
    second = contents(package(folder))
    manifests = [json.loads(files.pop("MAR-INF/MANIFEST.json")) for files in (first, second)]
    assert first == second
    for manifest in manifests:
        del manifest["createdOn"]
    assert manifests[0] == manifests[1]


def test_models_of_one_name_can_be_packed_at_once(tiny_build: Path, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(tiny_build, tmp_path / str(n))) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        packages = list(pool.map(package, folders))
    assert {check_package(mar).checkpoint_sha256 for mar in packages} == {
        ModelSpec.load(tiny_build / "model_spec.json").checkpoint_sha256
    }


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


def break_artefact(folder: Path) -> None:
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\0" * 50)


def drop_report(folder: Path) -> None:
    (folder / "parity.json").unlink()


def tear_report(folder: Path) -> None:
    text = (folder / "parity.json").read_text()
    (folder / "parity.json").write_text(text[: len(text) // 2])


def empty_report(folder: Path) -> None:
    parity = report.load(folder / "parity.json")
    for entry in parity["artefacts"]:
        entry["rows"] = []
    report.save(parity, folder / "parity.json")


def other_classes(folder: Path) -> None:
    spec = ModelSpec.load(folder / "model_spec.json")
    classes = (spec.classes[1], spec.classes[0], *spec.classes[2:])
    dataclasses.replace(spec, classes=classes).save(folder / "model_spec.json")


def failing_row(folder: Path) -> None:
    """The file still says that it passed; its figures do not."""
    parity = report.load(folder / "parity.json")
    parity["artefacts"][0]["rows"][3]["iou_change_points"]["floor"] = -2.5
    report.save(parity, folder / "parity.json")


def row_text(old: str, new: str) -> Callable[[Path], None]:
    """Replace the first `old` in the text of the report."""

    def spoil(folder: Path) -> None:
        text = (folder / "parity.json").read_text()
        assert re.search(old, text)
        (folder / "parity.json").write_text(re.sub(old, new, text, count=1))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (break_artefact, "sha256 differs"),
        (drop_report, "no parity report"),
        (tear_report, "no parity report"),
        (empty_report, "compared at 0 input sizes"),
        (other_classes, "the spec is not the one that was compared"),
        (row_text(r'"max_abs_error": [^,]*', '"max_abs_error": NaN'), "NaN is no figure"),
        (row_text(r'"logit_std": [\d.]+', '"logit_std": 1e999'), "1e999 is no figure"),
        (row_text(r'"height": \d+', '"height": 0'), "0 x"),
        (row_text(r'"iou_change_points": {[^}]*}', '"iou_change_points": {}'), "no class was compared"),
        (row_text(r'"iou_change_points": {[^}]*}', '"iou_change_points": [1]'), "does not have the fields"),
        (failing_row, r"room-.*class floor loses 2.50 points of IoU"),
    ],
)
def test_what_has_no_passing_report_is_not_packed(
    folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    (folder / "tiny.mar").unlink()
    spoil(folder)
    with pytest.raises(CheckFailed, match=reason):
        package(folder)
    assert not list(folder.rglob("*.mar"))


def other_weights(files: dict[str, bytes]) -> None:
    files["model.onnx"] = files["model.onnx"][:-1] + b"?"


def second_artefact(files: dict[str, bytes]) -> None:
    files["model.pt"] = b"weights of something else"


def no_handler(files: dict[str, bytes]) -> None:
    del files["segmentation_handler.py"]


def other_name(files: dict[str, bytes]) -> None:
    files["MAR-INF/MANIFEST.json"] = files["MAR-INF/MANIFEST.json"].replace(b'"1.2"', b'"1.3"')


def no_parity(files: dict[str, bytes]) -> None:
    del files["parity.json"]


def other_palette_and_classes(files: dict[str, bytes]) -> None:
    files["model_spec.json"] = files["model_spec.json"].replace(b'"floor"', b'"ground"')


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_weights, "not the file that passed parity"),
        (second_artefact, "do not belong there: model.pt"),
        (no_handler, "lacks segmentation_handler.py"),
        (other_name, "its manifest says"),
        (no_parity, "parity.json"),
        (other_palette_and_classes, "the spec is not the one that was compared"),
    ],
)
def test_a_package_that_was_changed_is_not_accepted(
    folder: Path, change: Callable[[dict[str, bytes]], None], reason: str
) -> None:
    mar = folder / "tiny.mar"
    rewrite(mar, change)
    with pytest.raises(CheckFailed, match=reason):
        check_package(mar)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_package_is_not_accepted(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.mar").write_bytes(content)
    with pytest.raises(CheckFailed, match="cannot be served"):
        check_package(tmp_path / "x.mar")


def test_a_path_that_leads_out_of_the_package_is_refused(folder: Path) -> None:
    rewrite(folder / "tiny.mar", lambda files: files.update({"segserve/../../evil.py": b"print('evil')"}))
    with pytest.raises(
        CheckFailed, match=re.escape("files that do not belong there: segserve/../../evil.py")
    ):
        check_package(folder / "tiny.mar")


def test_a_disk_that_gets_full_while_packing_leaves_no_package(folder: Path, repo_root: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails half-way in the same manner."""
    (folder / "tiny.mar").unlink()
    program = """
import resource, sys
from pathlib import Path
from export.package import package
from segserve.errors import SegserveError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    package(Path(sys.argv[1]))
except (SegserveError, OSError) as error:
    sys.exit(f"error: {error}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=repo_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "tiny.mar").exists()
    assert not [path.name for path in folder.iterdir() if path.is_dir()]
