"""training.prepare as a whole: what it writes is what training reads, and bad pairs are listed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segserve.errors import CheckFailed, UsageError
from tests.images import photo, stored_with_orientation
from training import contact_sheet, prepare
from training.data import load_dataset
from training.label_sets import NotThese
from training.prepare_options import PrepareConfig

UPRIGHT = photo(30, 40)


def save(path: Path, pixels: NDArray[np.uint8], orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, quality=95, exif=exif)


def label(left: int = 0) -> NDArray[np.uint8]:
    """Class `left` to the left, 2 to the right, a value that is ignored in the corner."""
    values = np.full((30, 40), left, np.uint8)
    values[:, 20:] = 2
    values[0, 0] = 9
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve good pairs of three clips, each photo different."""
    folder = tmp_path / "data"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(12):
        cells = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(cells).resize((40, 30), Image.Resampling.BICUBIC))
        save(folder / "images" / f"clip{number // 4}_{number % 4}.jpg", pixels)
        Image.fromarray(label(number % 2)).save(folder / "labels" / f"clip{number // 4}_{number % 4}.png")
    (folder / "names.txt").write_text("wall\nfloor\nceiling\n")
    return folder


def config(root: Path, **changed: Any) -> PrepareConfig:
    options: dict[str, Any] = {
        "root": root, "format": "index", "out": root.parent / "out", "names": root / "names.txt", "ignore": ("9",),
        "group": "^(clip.)", "val": 0.34, "workers": 1,
    }  # fmt: skip
    return PrepareConfig(**{**options, **changed})


def left_out(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "left_out.csv").open(encoding="utf-8") as file:
        return {Path(row["file"]).name: (row["kind"], row["reason"]) for row in csv.DictReader(file)}


def test_what_is_written_is_what_training_reads(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main(config(root, as_json=True))
    report = json.loads(capsys.readouterr().out)
    out = root.parent / "out"
    assert report == json.loads((out / "report.json").read_text())
    val = load_dataset(out / "dataset.toml", "val")
    train = load_dataset(out / "dataset.toml", "train")
    assert val.classes == ("wall", "floor", "ceiling")
    assert (len(train.samples), len(val.samples)) == (8, 4)
    assert len({sample.image.name[:5] for sample in val.samples}) == 1
    pixels, values = val.read(val.samples[0])
    source = root / "images" / val.samples[0].image.name
    assert val.samples[0].image.read_bytes() == source.read_bytes()
    assert pixels.shape == (30, 40, 3)
    assert (values[0, 0], values[29, 39], values[29, 0]) == (255, 2, 0)
    assert report["classes"][2]["val"] == {"pixels": 4 * 600, "share": 2400 / (4 * 1199), "images": 4}
    assert report["splits"]["train"]["ignored_share"] == pytest.approx(1 / 1200)
    assert report["left_out"] == []
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width == 6 * 260
        assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 1000


def test_what_a_pixel_is_not_is_kept(root: Path) -> None:
    """Of a source that knows floors alone, a photo without a floor says something too."""
    for path in (root / "labels").glob("clip0_*.png"):
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(path)
    (root / "table.toml").write_text(
        'classes = ["wall", "floor"]\n[map]\nwall = "not floor"\nfloor = "floor"\nceiling = "ignore"\n'
    )
    prepare.main(config(root, table=root / "table.toml"))
    out = root.parent / "out"
    assert left_out(out) == {}
    train, val = (load_dataset(out / "dataset.toml", split) for split in ("train", "val"))
    assert train.not_these == val.not_these == (NotThese(254, (1,)),)
    for dataset in (train, val):
        for sample in dataset.samples:
            name = sample.image.stem
            values = dataset.read(sample)[1]
            assert values[29, 0] == (254 if name.startswith("clip0") or int(name[-1]) % 2 == 0 else 1)
            assert values[29, 39] == (254 if name.startswith("clip0") else 255)


def test_bad_pairs_are_left_out_and_listed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = root / "images", root / "labels"
    (images / "clip0_0.jpg").write_bytes((images / "clip0_0.jpg").read_bytes()[:300])
    Image.fromarray(label()[:20]).save(labels / "clip0_1.png")
    Image.fromarray(np.full((30, 40), 9, np.uint8)).save(labels / "clip0_2.png")
    Image.fromarray(np.full((30, 40), 77, np.uint8)).save(labels / "clip1_0.png")
    (labels / "clip1_1.png").write_bytes(b"")
    (labels / "clip1_2.png").unlink()
    prepare.main(config(root, max_left_out=0.5))
    out = root.parent / "out"
    found = left_out(out)
    assert {name: kind for name, (kind, _) in found.items()} == {
        "clip0_0.jpg": "unreadable image",
        "clip0_1.jpg": "size",
        "clip0_2.jpg": "empty",
        "clip1_0.jpg": "unknown value",
        "clip1_1.jpg": "unreadable label",
        "clip1_2.jpg": "no label",
    }
    assert found["clip0_1.jpg"][1] == "label is 40x20, image 40x30"
    screen = capsys.readouterr().out
    for name, (kind, reason) in found.items():
        assert f"{kind}: {root / 'images' / name}: {reason}" in screen
    assert {path.stem for path in (out / "images").iterdir()} == {
        path.stem for path in (out / "labels").iterdir()
    }
    samples = [s for split in ("train", "val") for s in load_dataset(out / "dataset.toml", split).samples]
    assert len(samples) == 6


def test_too_much_bad_is_no_dataset_and_can_be_tried_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        (root / "labels" / f"clip1_{number}.png").write_bytes(b"")
    with pytest.raises(CheckFailed, match="2 of 12 were bad, --max-left-out allows 10%"):
        prepare.main(config(root))
    assert "left out: 2 unreadable label" in capsys.readouterr().out
    out = root.parent / "out"
    assert [path.name for path in out.iterdir()] == ["left_out.csv"]
    assert sorted(left_out(out)) == ["clip1_0.jpg", "clip1_1.jpg"]
    prepare.main(config(root, max_left_out=0.2))
    assert (out / "dataset.toml").is_file()


def test_what_is_broken_off_at_the_end_can_be_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the picture is drawn the lists are there."""

    def interrupted(*_: Any) -> None:
        assert (root.parent / "out" / "train.txt").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(contact_sheet, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare.main(config(root))
    prepare.main(config(root))
    assert len(load_dataset(root.parent / "out" / "dataset.toml", "train").samples) > 0


@pytest.mark.parametrize("orientation", [3, 6])
def test_labels_of_turned_photos(root: Path, orientation: int) -> None:
    """EXIF: a label may have been drawn for the photo as seen, or as stored."""
    stored, drawn = stored_with_orientation(UPRIGHT, orientation), label()
    save(root / "images" / "clip0_0.jpg", stored, orientation)
    stored_label = stored_with_orientation(np.repeat(drawn[..., None], 3, axis=2), orientation)[..., 0]
    out = root.parent / "out"

    Image.fromarray(drawn).save(root / "labels" / "clip0_0.png")
    prepare.main(config(root))
    written = np.asarray(Image.open(out / "labels" / "clip0_0.png"))
    assert np.array_equal(written, np.where(drawn == 9, 255, drawn))
    notes = json.loads((out / "report.json").read_text())["notes"]
    assert [Path(note["file"]).name for note in notes] == (["clip0_0.jpg"] if orientation == 3 else [])

    Image.fromarray(stored_label).save(root / "labels" / "clip0_0.png")
    as_stored = config(root, out=root.parent / "stored", labels_as_stored=True)
    prepare.main(as_stored)
    again = np.asarray(Image.open(as_stored.out / "labels" / "clip0_0.png"))
    assert np.array_equal(again, written)


def test_a_label_of_the_stored_photo_is_told(root: Path) -> None:
    save(root / "images" / "clip0_0.jpg", stored_with_orientation(UPRIGHT, 6), 6)
    Image.fromarray(label().T).save(root / "labels" / "clip0_0.png")
    prepare.main(config(root))
    kind, reason = left_out(root.parent / "out")["clip0_0.jpg"]
    assert kind == "size"
    assert "try with --labels-as-stored" in reason


def into_folders(root: Path, **clips_of: str) -> None:
    """Each clip into the folder of its split."""
    for folder in (root / "images", root / "labels"):
        for split, clips in clips_of.items():
            (folder / split).mkdir()
            for path in sorted(folder.glob(f"clip[{clips}]_*")):
                path.rename(folder / split / path.name)


def test_a_photo_of_val_leaves_train(root: Path) -> None:
    into_folders(root, train="01", val="2")
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        again = root / folder / "val" / f"again.{suffix}"
        again.write_bytes((root / folder / "train" / f"clip0_1.{suffix}").read_bytes())
    with Image.open(root / "images" / "train" / "clip0_1.jpg") as upright:  # as another camera stores it
        save(root / "images" / "val" / "again.jpg", stored_with_orientation(np.array(upright), 6), 6)
    prepare.main(config(root, val=None, group=None))
    out = root.parent / "out"
    kind, reason = left_out(out)["clip0_1.jpg"]
    assert kind == "duplicate"
    assert reason.endswith("val/again.jpg, which is in val")
    assert not (out / "images" / "train__clip0_1.jpg").exists()
    assert len(load_dataset(out / "dataset.toml", "train").samples) == 7
    assert len(load_dataset(out / "dataset.toml", "val").samples) == 5


def stand_still(root: Path) -> None:
    """All photos are of one camera: they differ in a small square."""
    with Image.open(root / "images" / "clip0_0.jpg") as first:
        scene = np.array(first)
    for number, path in enumerate(sorted(root.glob("images/**/*.jpg"))):
        frame = scene.copy()
        frame[number : number + 3, number : number + 3] = (
            255 - frame[number : number + 3, number : number + 3]
        )
        save(path, frame)


def test_photos_of_a_camera_that_stands_still(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stand_still(root)
    with pytest.raises(
        CheckFailed, match=r"12 look like others.*a camera that stands still.*--keep-duplicates"
    ):
        prepare.main(config(root, group=None))
    prepare.main(config(root, group=None, keep_duplicates=True))
    assert "12 images show the same, in 1 groups" in capsys.readouterr().out
    out = root.parent / "out"
    report = json.loads((out / "report.json").read_text())
    assert [len(load_dataset(out / "dataset.toml", split).samples) for split in ("train", "val")] == [8, 4]
    assert (report["same_groups"], report["same_images"], [len(group) for group in report["same"]]) == (
        1,
        12,
        [12],
    )


def test_a_split_of_the_source_of_which_nothing_is_left(root: Path) -> None:
    stand_still(root)
    into_folders(root, train="01", val="2")
    with pytest.raises(CheckFailed, match=r"nothing is left of train, .*\(8 duplicate\).*--val SHARE"):
        prepare.main(config(root, val=None, group=None, max_left_out=1.0))
    assert len(left_out(root.parent / "out")) == 8
    assert not (root.parent / "out" / "dataset.toml").exists()
    with pytest.raises(CheckFailed, match=r"nothing is left of train, .*\(8 group\).*leaving out --group"):
        prepare.main(config(root, val=None, group="(clip)", max_left_out=1.0))
    prepare.main(config(root, val=None, group=None, keep_duplicates=True))
    assert len(load_dataset(root.parent / "out" / "dataset.toml", "train").samples) == 8


@pytest.mark.parametrize("second", ["test", "."])
def test_splits_of_the_source_that_are_not_whole_are_not_mixed(root: Path, second: str) -> None:
    """Photos that were kept for a test would be trained on."""
    into_folders(root, **{"train": "0", "val" if second == "." else second: "1"})
    for folder in ("images", "labels"):
        for path in (root / folder).glob("clip2_*") if second != "." else []:
            path.unlink()
    said = r"clip2_0\.jpg is in none" if second == "." else "splits test, train, but train and val are needed"
    with pytest.raises(UsageError, match=rf"{said}.*--val SHARE"):
        prepare.main(config(root, val=None, group="(clip.)"))
    prepare.main(config(root, group="(clip.)"))  # asked for
    assert len(load_dataset(root.parent / "out" / "dataset.toml", "val").samples) == 4


def test_a_split_of_the_source_that_is_all_bad_is_not_made_of_the_others(root: Path) -> None:
    into_folders(root, train="0", test="1", val="2")
    for path in (root / "images" / "val").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(UsageError, match="splits test, train, but train and val are needed"):
        prepare.main(config(root, val=None, group=None, max_left_out=0.5))


def test_several_processes_find_the_same(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = []
    for workers in (1, 2):
        prepare.main(config(root, workers=workers, out=root.parent / f"out{workers}", as_json=True))
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
    assert reports[0]["splits"]["train"]["images"] == 8


def test_the_command_says_what_is_wrong(root: Path, repo_root: Path) -> None:
    options = ["--format", "index", "--names", str(root / "names.txt"), "--workers", "1", "--json"]
    command = [
        sys.executable,
        "-m",
        "training.prepare",
        str(root),
        *options,
        "--out",
        str(root.parent / "out"),
    ]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: 12 of 12 were bad" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"names": None}, "needs --names"),
        ({"format": "coco"}, "needs --images"),
        ({"format": "yolo", "labels": ("clean",)}, "reads all of ROOT, labels beside images/"),
        ({"format": "labelme", "images": ("clean",)}, "reads all of ROOT, labels anywhere"),
        ({"format": "coco", "labels": ("a.json",)}, "--names is not for --format coco"),
        ({"format": "ade20k"}, "--names is not for --format ade20k"),
        ({"images": ("a", "b")}, "2 --images, 1 --labels"),
        ({"val": 0.9, "test": 0.2}, "shares"),
        ({"workers": 0}, "--workers 0"),
        ({"group": "("}, "no regular expression"),
    ],
)
def test_options_that_do_not_go_together(root: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(root, **changed)


def test_the_dataset_must_not_be_in_its_source(root: Path) -> None:
    with pytest.raises(UsageError, match="would be read as data"):
        config(root, out=root / "out")
