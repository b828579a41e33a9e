"""What a rollout does before the server sees a package: classes, unpacking, full and read-only disks."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from deploy import incoming
from deploy.interrupts import Asked
from segserve.errors import CheckFailed, ServerError, UsageError
from segserve.spec import Golden
from tests.specs import make_spec

SPEC = make_spec(version="2.0")
FILE = incoming.folder_name(SPEC)


@pytest.fixture
def mar(tmp_path: Path) -> Path:
    path = tmp_path / "new.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model_spec.json", "{}")
        archive.writestr("segserve/mask.py", "# code")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def test_the_same_classes_in_another_order_are_refused_by_name() -> None:
    new = make_spec(version="2.0", classes=("floor", "wall", "ceiling"))
    with pytest.raises(
        CheckFailed, match=r"0 is floor, was wall; 1 is wall, was floor.*--allow-class-change"
    ):
        incoming.require_same_classes(new, make_spec())


def test_more_classes_are_other_classes() -> None:
    new = make_spec(classes=("wall", "floor", "ceiling", "bed"), palette=((0, 0, 0),) * 4)
    with pytest.raises(CheckFailed, match="3 is bed, was nothing"):
        incoming.require_same_classes(new, make_spec())
    incoming.require_same_classes(make_spec(version="9"), make_spec())


def test_a_package_is_unpacked_whole(mar: Path, store: Path) -> None:
    incoming.unpack(mar, store, FILE)
    folder = store / FILE
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"model_spec.json", "segserve/mask.py"}
    assert list(store.iterdir()) == [folder]


def test_two_servers_that_share_a_store_remove_their_own_folders_only(mar: Path, store: Path) -> None:
    ours, theirs = incoming.folder_name(SPEC), incoming.folder_name(SPEC)
    for file in (ours, theirs):
        assert file.startswith("rooms-2.0-")
        incoming.unpack(mar, store, file)
    incoming.remove(store, ours)
    assert [path.name for path in store.iterdir()] == [theirs]
    assert (store / theirs / "model_spec.json").read_text() == "{}"


def test_a_signal_while_unpacking_leaves_nothing(
    mar: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise Asked("interrupted")

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(Asked):
        incoming.unpack(mar, store, FILE)
    assert list(store.iterdir()) == []


def test_what_a_killed_rollout_had_unpacked_in_part_goes_with_its_folder(
    mar: Path, store: Path, repo_root: Path
) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from deploy import incoming\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "incoming.unpack(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])"
    )
    done = subprocess.run([sys.executable, "-c", program, mar, store, FILE], cwd=repo_root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in store.iterdir()] == [f".{FILE}.partial"]
    incoming.remove(store, FILE)
    assert list(store.iterdir()) == []


def test_a_disk_that_would_be_full_is_noticed_before(
    mar: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(
        ServerError, match=r"has 0 MB left; new.mar needs 0 MB and 200 MB to spare. Make room"
    ):
        incoming.unpack(mar, store, FILE)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails_meanwhile_leaves_nothing(
    mar: Path, store: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ServerError, match=f"{os.strerror(number)}; nothing was changed"):
        incoming.unpack(mar, store, FILE)
    assert list(store.iterdir()) == []


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        incoming.check(tmp_path / "none.mar")


def test_only_what_a_rollout_unpacked_is_removed(store: Path) -> None:
    by_hand = ["demo-1.0-0123abcd", "rooms", "rooms-1.0", "rooms-1.0-0123ABCD", "rooms-1.0-0123abcd.old"]
    for name in (*by_hand, FILE):
        (store / name).mkdir()
        if not name.startswith("demo"):  # which is no model
            (store / name / "model_spec.json").write_text("{}")
    (store / "rooms.mar").write_bytes(b"")
    for name in (*by_hand, FILE, "rooms.mar", "never-1.0-0123abcd"):
        incoming.remove(store, name)
    assert sorted(path.name for path in store.iterdir()) == [*by_hand, "rooms.mar"]


# --- what the server loaded is no longer there ----------------------------------------------------------------


def golden_mar(path: Path, *without: str) -> Path:
    """A package with a golden photo, or most of it."""
    golden = Golden("photo.jpg", "0" * 64, "mask.png", "0" * 64)
    make_spec(golden=(golden,)).save(path.with_suffix(".json"))
    mask = io.BytesIO()
    Image.new("L", (4, 3), 2).save(mask, "PNG")
    files = {
        "model_spec.json": path.with_suffix(".json").read_bytes(),
        "mask.png": mask.getvalue(),
        "photo.jpg": b"x",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files.keys() - set(without):
            archive.writestr(name, files[name])
    return path


def test_golden_photos_of_an_archive(tmp_path: Path) -> None:
    [golden] = incoming.golden_photos(golden_mar(tmp_path / "rooms.mar"))
    assert (golden.name, golden.photo, golden.labels.tolist()) == ("photo.jpg", b"x", [[2] * 4] * 3)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def torn_inside(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("model_spec.json").header_offset + 60
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (torn, "not a zip file"),
        (torn_inside, "decompressing|CRC"),
        (Path.unlink, "it is gone"),
        (lambda path: golden_mar(path, "model_spec.json"), r"model_spec\.json"),
        (lambda path: golden_mar(path, "mask.png"), r"mask\.png"),
    ],
    ids=["torn", "torn inside", "renamed", "another zip", "without a mask"],
)
def test_a_package_that_is_not_what_it_was_is_to_be_put_back(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    path = golden_mar(tmp_path / "rooms.mar")
    spoil(path)
    with pytest.raises(
        UsageError, match=rf"rooms\.mar is no longer .*{reason}.*: put the old package back there"
    ):
        incoming.golden_photos(path)
