"""Kernels of the training compile where nothing can be written, and are kept where something can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segserve import jit
from training import rooms_raster

PROGRAM = """
from training import rooms_raster, rooms_shade, rooms_texture
kernels = rooms_raster._fill, rooms_shade._lit, rooms_texture._paint
assert {type(kernel._cache).__name__ for kernel in kernels} == {"NullCache"}
from training.rooms import render
image, label = render(1, 24, 32)
print(image.shape, label.shape)
"""


def test_kernels_work_where_nothing_can_be_written(repo_root: Path, tmp_path: Path) -> None:
    for name in ("segserve", "training"):
        copy = shutil.copytree(
            repo_root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
        for folder in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
            (folder / "__pycache__").touch()  # a file, which stops even root from making the folder
    home = tmp_path / "home"
    home.touch()
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    result = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM], cwd=tmp_path, env=environment | {"HOME": str(home)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == "(24, 32, 3) (24, 32)\n"


def test_kernels_are_kept_where_they_can_be() -> None:
    assert Path(rooms_raster._fill._cache.cache_path).is_dir()  # type: ignore[attr-defined]


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("no LLVM here")

    monkeypatch.setattr(jit, "njit", broken)
    with pytest.raises(RuntimeError, match="no LLVM here"):
        jit.kernel(nogil=True)(len)
