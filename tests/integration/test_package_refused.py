"""What is not packed, and what is not accepted as a package: unproven, changed, torn, or on a full disk."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from export.package import package
from segserve import parity_report as report
from segserve.errors import CheckFailed
from segserve.package import check_package
from segserve.spec import ModelSpec


def rewrite(mar: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change the files in a .mar."""
    with zipfile.ZipFile(mar) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    change(files)
    with zipfile.ZipFile(mar, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


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
    good_build: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    (good_build / "tiny.mar").unlink()
    spoil(good_build)
    with pytest.raises(CheckFailed, match=reason):
        package(good_build)
    assert not list(good_build.rglob("*.mar"))


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


def other_golden_mask(files: dict[str, bytes]) -> None:
    """A rollout takes it for the truth."""
    files["golden-1-mask.png"] = files["golden-2-mask.png"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_golden_mask, "its golden-1-mask.png is not the golden photo or mask of the spec"),
        (other_weights, "not the file that passed parity"),
        (second_artefact, "do not belong there: model.pt"),
        (no_handler, "lacks segmentation_handler.py"),
        (other_name, "its manifest says"),
        (no_parity, "parity.json"),
        (other_palette_and_classes, "the spec is not the one that was compared"),
    ],
)
def test_a_package_that_was_changed_is_not_accepted(
    good_build: Path, change: Callable[[dict[str, bytes]], None], reason: str
) -> None:
    mar = good_build / "tiny.mar"
    rewrite(mar, change)
    with pytest.raises(CheckFailed, match=reason):
        check_package(mar)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_package_is_not_accepted(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.mar").write_bytes(content)
    with pytest.raises(CheckFailed, match="cannot be served"):
        check_package(tmp_path / "x.mar")


def test_a_path_that_leads_out_of_the_package_is_refused(good_build: Path) -> None:
    rewrite(good_build / "tiny.mar", lambda files: files.update({"segserve/../../evil.py": b"print('evil')"}))
    with pytest.raises(
        CheckFailed, match=re.escape("files that do not belong there: segserve/../../evil.py")
    ):
        check_package(good_build / "tiny.mar")


def test_a_disk_that_gets_full_while_packing_leaves_no_package(good_build: Path, repo_root: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails half-way in the same manner."""
    (good_build / "tiny.mar").unlink()
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
        [sys.executable, "-c", program, str(good_build)],
        cwd=repo_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (good_build / "tiny.mar").exists()
    assert not [path.name for path in good_build.iterdir() if path.is_dir()]
