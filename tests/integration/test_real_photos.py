"""The demo model as committed and exported, compared with its checkpoint on photographs and odd files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export import build, variants
from segserve import parity_report as report
from segserve.package import check_package
from segserve.parity_row import AS_SERVED
from tests.integration.conftest import compare_small

# CMYK, turned by EXIF, grey, 16 bits, palette with transparency, alpha
ODD = (
    "cmyk.jpg",
    "cmyk_2.jpg",
    "exif_orientation_6.jpg",
    "gray.jpg",
    "gray16.png",
    "palette_trns.png",
    "alpha.webp",
)


@pytest.mark.timeout(900)  # a whole export; a minute on two quiet cores
def test_the_demo_model_passes_on_photographs_and_odd_files(
    shared_data: Path, repo_root: Path, demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # to save time: the demo's own packaging exports it too, and looks at all of the rendered rooms
    monkeypatch.setattr(variants, "to_onnx", lambda _, path: shutil.copyfile(demo_onnx, path))
    compare_small(monkeypatch)
    photos = Path(shutil.copytree(shared_data / "rooms_mini" / "images", tmp_path / "photos"))
    for name in ODD:
        shutil.copyfile(shared_data / "odd_images" / name, photos / name)
    out = tmp_path / "out"
    build.main(build.BuildConfig(repo_root / "model_store/demo/rooms.safetensors", out, images=photos))

    assert check_package(out / "rooms.mar").parity["passed"] is True
    parity = report.load(out / "parity.json")
    for entry in parity["artefacts"]:
        compared = {row["image"]: row for row in entry["rows"] if row["kind"] == AS_SERVED}
        assert {path.name for path in photos.iterdir()} <= compared.keys()
        # the turned one stands upright: its file is 480 x 720 (width x height)
        turned = compared["exif_orientation_6.jpg"]
        assert (turned["height"], turned["width"]) == (480, 720)
        assert sum(len(row["iou_change_points"]) > 1 for row in compared.values()) >= len(compared) // 2
