"""What export.build leaves alone: an earlier build where something was mistyped, and files that are not its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from export import build, build_output, golden, package, variants, verdict
from segserve import cpu
from segserve.errors import CheckFailed, SegserveError, UsageError
from segserve.spec import SPEC_FILE, ModelSpec
from tests import tiny_pspnet
from tests.integration.conftest import RunHere
from training.torch_engine import checkpoint_segmenter

EARLIER = ("rooms.mar", "model.onnx", "model.pt", "model_spec.json", "parity.json")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder with all that an earlier build left."""
    folder = tmp_path / "build"
    folder.mkdir()
    for name in EARLIER:
        (folder / name).write_text("of an earlier build")
    return folder


@pytest.mark.parametrize("mistyped", ["checkpoint", "images", "calibration"])
def test_a_mistyped_name_costs_no_earlier_build(
    tiny_build: Path, tmp_path: Path, earlier: Path, mistyped: str
) -> None:
    nowhere = tmp_path / "nowhere"
    options: dict[str, Any] = {"checkpoint": tiny_build / "tiny.safetensors", mistyped: nowhere}
    with pytest.raises(SegserveError, match="nowhere"):
        build.main(build.BuildConfig(out=earlier, **options))
    assert {path.name: path.read_text() for path in earlier.iterdir()} == dict.fromkeys(
        EARLIER, "of an earlier build"
    )


@pytest.mark.parametrize("option", ["images", "calibration"])
def test_a_stray_file_among_the_photos_costs_no_earlier_build(
    tiny_build: Path, tmp_path: Path, earlier: Path, run_here: RunHere, option: str
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 30), "brown").save(photos / "a.png")
    (photos / "notes.txt").write_text("the second is blurred")
    checkpoint = tiny_build / "tiny.safetensors"
    code, _, errors = run_here(
        build.BuildConfig, build.main, checkpoint, "--out", earlier, "--engine", "auto", f"--{option}", photos
    )
    assert code == 2
    assert errors.startswith(f"error: --{option}: notes.txt: this is not an image")
    assert {path.name: path.read_text() for path in earlier.iterdir()} == dict.fromkeys(
        EARLIER, "of an earlier build"
    )


@pytest.mark.parametrize("option", ["images", "calibration"])
def test_photos_have_a_folder_of_their_own(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"is also --{option}"):
        build.BuildConfig(tmp_path / "x.safetensors", tmp_path, **{option: tmp_path / "." / "y" / ".."})  # type: ignore[arg-type]


def test_only_golden_photos_of_a_build_are_replaced(tiny_build: Path, tmp_path: Path) -> None:
    for name in ("golden-retriever.jpg", "golden-9.jpg", "golden-9-mask.png"):
        (tmp_path / name).write_bytes(b"")
    golden.write(checkpoint_segmenter(tiny_build / "tiny.safetensors"), None, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"golden-retriever.jpg"} | {
        f"golden-{n}{kind}" for n in (1, 2, 3, 4) for kind in (".jpg", "-mask.png")
    }


def test_golden_masks_are_those_of_the_checkpoint_that_was_compared(tiny_build: Path, tmp_path: Path) -> None:
    """A training may write its checkpoint anew while it is exported."""
    spec = ModelSpec.load(tiny_build / SPEC_FILE)
    checkpoint = tmp_path / "tiny.safetensors"
    checkpoint.write_bytes((tiny_build / "tiny.safetensors").read_bytes())
    assert golden.reference(checkpoint, spec).spec.checkpoint_sha256 == spec.checkpoint_sha256
    tiny_pspnet.save(checkpoint, seed=1)
    with pytest.raises(
        CheckFailed, match=r"no package: .*tiny\.safetensors changed while it was exported: .*again"
    ):
        golden.reference(checkpoint, spec)


def test_what_an_ended_packaging_left_is_taken_away_and_nothing_else(
    tiny_build: Path, tmp_path: Path
) -> None:
    names = (
        "package-a1b2c_d3",
        "package-00000000",
        "package-photos",
        "package-photos99",
        "package-lock.json",
    )
    for name in names:
        (tmp_path / name / "files" / "segserve").mkdir(parents=True)
    (tmp_path / "package-00000000" / "out").mkdir()
    (tmp_path / "package-photos99" / "a.jpg").write_bytes(b"somebody's")
    (tmp_path / "package-elsewher").symlink_to(tiny_build)
    (tmp_path / "package-list.txt").write_text("somebody's")
    config = build.BuildConfig(tiny_build / "tiny.safetensors", tmp_path)
    build.prepare_folder(config)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "package-photos",
        "package-photos99",
        "package-lock.json",
        "package-elsewher",
        "package-list.txt",
    }
    assert (tiny_build / "tiny.safetensors").exists()


def test_a_packaging_works_in_a_folder_that_is_known_for_its_own(
    good_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves when it is ended at its very end is what the next build takes away."""
    kept: list[Path] = []

    def ended(mar: Path) -> None:
        name = mar.parents[1].name
        another = f"{name[:-1]}{'1' if name.endswith('0') else '0'}"
        kept.append(Path(shutil.copytree(mar.parents[1], good_build / another)))

    monkeypatch.setattr(package, "check_package", ended)
    package.package(good_build)
    assert kept[0].is_dir()
    package.remove_unfinished(good_build)
    assert not kept[0].exists()


def test_it_is_told_when_no_photo_is_small_enough_to_be_golden(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 30), "brown").save(photos / "a.png")
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes() + bytes(1000))
    build_output.show_photos(photos, {"compared": 2, "available": 2})
    assert "golden" not in capsys.readouterr().out
    packed = golden.write(checkpoint_segmenter(tiny_build / "tiny.safetensors"), photos, tmp_path)
    assert [item.photo for item in packed] == ["golden-1.png", "golden-2.png"]
    monkeypatch.setattr(golden, "MAX_BYTES", 1000)
    assert golden.fitting(photos) == [photos / "a.png"]
    monkeypatch.setattr(golden, "MAX_BYTES", 10)
    build_output.show_photos(photos, {"compared": 2, "available": 2})
    assert "at most 1e-05 MB, so the golden photos are rendered rooms" in capsys.readouterr().out


def test_what_raised_in_a_comparison_is_not_timed() -> None:
    entries = [
        {"name": name, "passed": not failures, "failures": failures, "problems": problems}
        for name, failures, problems in (
            ("onnx", [], []), ("onnx-int8", ["floor lost"], []), ("tensorrt", ["no memory"], ["no memory"]),
        )
    ]  # fmt: skip
    checked: dict[str, Any] = {"artefacts": entries, "spec_failures": []}
    left_out = {"onnx_cuda": "no GPU"}
    assert verdict.leave_out(checked, left_out, "auto") == {"onnx-int8": "floor lost"}
    assert left_out == {"onnx_cuda": "no GPU", "tensorrt": "no memory"}
    assert checked["passed"] is True
    assert [entry["name"] for entry in checked["left_out"]] == ["onnx-int8", "tensorrt"]


@pytest.mark.usefixtures("quickly")
def test_a_converter_that_fails_costs_auto_that_engine_alone(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file = variants.write_file

    def fails(file: str, *rest: Any) -> str:
        if file == "model.bf16.pt":
            raise RuntimeError("a converter's own words")
        return write_file(file, *rest)

    monkeypatch.setattr(build, "write_file", fails)
    config = build.BuildConfig(tiny_build / "tiny.safetensors", tmp_path, engine="auto")
    made = [v for v in variants.VARIANTS if v.name in ("onnx", "torchscript-bf16")]
    left_out: dict[str, str] = {}
    build.prepare_folder(config)
    spec, _ = build.export(config, build.read_inputs(config), made, left_out, lambda step: None)
    assert [artefact.name for artefact in spec.artefacts] == ["onnx"]
    assert left_out == {"torchscript-bf16": "a converter's own words"}


def test_a_photo_that_went_bad_ends_auto_instead_of_costing_int8(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(file: str, *rest: Any) -> str:
        raise UsageError("--calibration: a.png: this is not an image")

    monkeypatch.setattr(build, "write_file", fails)
    config = build.BuildConfig(tiny_build / "tiny.safetensors", tmp_path, engine="auto")
    made = [variant for variant in variants.VARIANTS if variant.name == "openvino-int8"]
    left_out: dict[str, str] = {}
    with pytest.raises(UsageError, match=r"a\.png"):
        build.export(config, build.read_inputs(config), made, left_out, lambda step: None)
    assert not left_out


@pytest.mark.parametrize(("has_bf16", "floats"), [(True, "bf16"), (False, "f32")])
def test_the_spec_says_which_floats_int8_was_proven_with(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, floats: str
) -> None:
    def write(file: str, source: variants.Source, folder: Path, *rest: Any) -> str:
        (folder / file).write_bytes(b"a model")
        return ""

    monkeypatch.setattr(build, "write_file", write)
    monkeypatch.setattr(cpu, "has_bf16", lambda: has_bf16)
    config = build.BuildConfig(tiny_build / "tiny.safetensors", tmp_path, engine="openvino-int8")
    made = [v for v in variants.VARIANTS if v.name in ("onnx", "openvino", "openvino-int8", "onnx-int8")]
    build.export(config, build.read_inputs(config), made, {}, lambda step: None)
    artefacts = ModelSpec.load(tmp_path / SPEC_FILE).artefacts
    assert {artefact.name: artefact.floats for artefact in artefacts} == {
        "onnx": None, "openvino": None, "openvino-int8": floats, "onnx-int8": None,
    }  # fmt: skip
