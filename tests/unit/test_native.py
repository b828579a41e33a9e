"""The mask's machine code: compiled once, found again from any folder, never what is damaged or somebody else's."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segserve import mask, mask_kernel, native, native_build
from segserve.geometry import Geometry

# segments a map of one step, and says how long the way was
PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
import numpy as np
from segserve.geometry import Geometry
from segserve.mask import label_map
logits_chw = np.zeros((2, 2, 3), np.float32)
logits_chw[1, :, 2] = 1
print(label_map(logits_chw, Geometry.letterbox(2, 3, 2, 3), True).tolist(), "numba" in sys.modules)
"""
LABELS = [[0, 0, 1], [0, 0, 1]]

linux_x86_64 = pytest.mark.skipif(
    (sys.platform, os.uname().machine) != ("linux", "x86_64"),
    reason="machine code is kept on x86-64 Linux only",
)


def run_copy(repo_root: Path, folder: Path, cache: Path) -> list[str]:
    """What PROGRAM prints with a copy of segserve in `folder`, as of an unpacked .mar."""
    shutil.copytree(repo_root / "segserve", folder / "segserve", ignore=shutil.ignore_patterns("__pycache__"))
    result = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM], cwd=folder, env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of fill_float32, in a cache folder of these tests."""
    return native.kept("fill_float32", tmp_path_factory.mktemp("cache"))


@linux_x86_64
def test_another_unpacked_model_finds_the_code(repo_root: Path, tmp_path: Path) -> None:
    """And without numba, which is what a worker saves."""
    cache = tmp_path / "cache"
    first = run_copy(repo_root, tmp_path / "one", cache)
    assert first[0] == "compiling fill_float32 for this processor, once on this host"
    assert first[1:] == [f"{LABELS} False"]
    assert run_copy(repo_root, tmp_path / "two", cache) == [f"{LABELS} False"]
    assert len(list((cache / "segserve").glob("*.bin"))) == 1


@linux_x86_64
def test_where_nothing_can_be_kept_numba_compiles_in_the_process(repo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    folder = tmp_path / "model"
    shutil.copytree(repo_root / "segserve", folder / "segserve", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "segserve" / "__pycache__").touch()  # a file, which stops even root from making the folder
    home = tmp_path / "home"
    home.touch()
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    result = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM], cwd=folder, capture_output=True, text=True, check=False,
        env=environment | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(home)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    *warnings, answer = result.stdout.splitlines()
    assert answer == f"{LABELS} True"
    assert len(warnings) == 2
    assert all("no machine code in" in warning for warning in warnings)


def test_a_user_without_a_home_keeps_code_beside_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    beside = native._HERE / "__pycache__"
    assert list(native._folders()) == [beside]
    monkeypatch.setenv("HOME", "/home/of")
    assert list(native._folders()) == [Path("/home/of/.cache/segserve"), beside]
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert list(native._folders()) == [Path("/caches/segserve"), beside]


@linux_x86_64
def test_both_ways_of_running_give_the_same_map(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits_chw = np.random.default_rng(0).normal(size=(30, 20, 21)).round(1).astype(np.float32)
    geometry = Geometry.letterbox(200, 310, 160, 160)
    maps = []
    for fill in (native.load(code), mask_kernel.fill_float32):
        monkeypatch.setattr(native, "function", lambda name, fill=fill: fill)
        maps.append(mask.label_map(logits_chw, geometry, False))
    np.testing.assert_array_equal(maps[0], maps[1])
    assert len(np.unique(maps[0])) > 20


@linux_x86_64
def test_changed_sources_make_other_code(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file's time says."""
    for name in native._SOURCES:
        shutil.copy2(native._HERE / name, tmp_path)
    monkeypatch.setattr(native, "_HERE", tmp_path)
    same = native._made_from()
    assert code.name == f"fill_float32-{same}.bin"
    for name in native._SOURCES:
        path = tmp_path / name
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        before = path.read_bytes()
        path.write_bytes(before[:-2] + b"#\n")
        os.utime(path, ns=times)
        assert native._made_from() != same
        path.write_bytes(before)
    assert native._made_from() == same


@linux_x86_64
@pytest.mark.parametrize(("damage", "message"), [
    (lambda data: data[:40], "cut off"), (lambda data: b"", "empty"), (lambda data: data[:-1], "damaged"),
    (lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], "damaged"),
])  # fmt: skip
def test_damaged_code_is_never_run(code: Path, tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / code.name
    path.write_bytes(damage(code.read_bytes()))  # type: ignore[operator]
    path.chmod(0o644)
    with pytest.raises(ValueError, match=message):
        native.load(path)


@linux_x86_64
def test_code_that_others_may_write_is_never_run(code: Path, tmp_path: Path) -> None:
    path = tmp_path / code.name
    shutil.copy2(code, path)
    native.load(path)
    path.chmod(0o666)
    with pytest.raises(ValueError, match="another user"):
        native.load(path)


@linux_x86_64
def test_what_cannot_be_compiled_says_why(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        native.kept("fill_nothing", tmp_path)
    assert b"fill_nothing" in caught.value.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["native.lock"]


def test_only_relative_references_are_filled_in() -> None:
    with pytest.raises(ValueError, match="ELF"):
        native_build._link(b"MZ" + bytes(200), 0)
