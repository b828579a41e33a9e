"""A wheel of `deploy.client` and what it imports, for applications that send photos: they need httpx and no torch.

    python -m deploy.client_wheel --out out        # make client

The modules are found by importing the client in a fresh interpreter, so none is forgotten and no other comes along.
Not published: install the file, or serve it from an index of yours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from segserve.cli import run
from segserve.errors import CheckFailed, UsageError

REPO = Path(__file__).resolve().parents[1]
LOADED = """
import sys, deploy.client
print(*(m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] in ("deploy", "segserve")), sep="\\n")
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "segserve-client"
version = "{version}"
description = "Client of a segserve server: a photo in, a mask out."
requires-python = ">=3.11"
dependencies = ["httpx>=0.28,<1"]
license = "Apache-2.0"

[tool.setuptools]
packages = ["deploy", "segserve"]
"""


@dataclass(frozen=True)
class WheelConfig:
    """Where to."""

    out: Path = Path("out")
    """Folder for the wheel; made if it is not there."""


def main(config: WheelConfig) -> None:
    print(build(config.out))


def build(out: Path) -> Path:
    """Returns: the wheel. Raises: CheckFailed if it cannot be built, UsageError outside of the whole repository."""
    if missing := [name for name in ("pyproject.toml", "LICENSE") if not (REPO / name).is_file()]:
        raise UsageError(
            f"no {' and no '.join(missing)} in {REPO}: build the wheel in a clone of the repository"
        )
    version = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for file in modules():
            copy = Path(folder) / file.relative_to(REPO)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(file, copy)
        shutil.copy(REPO / "LICENSE", folder)
        (Path(folder) / "pyproject.toml").write_text(PROJECT.format(version=version))
        options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(out), folder]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CheckFailed(f"pip could not build the wheel: {done.stderr.strip()[-1000:]}")
    return out / f"segserve_client-{version}-py3-none-any.whl"


def modules() -> list[Path]:
    """Of this repository, that the client loads."""
    command = [sys.executable, "-c", LOADED]
    found = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    return [Path(file) for file in found.splitlines()]


if __name__ == "__main__":
    run(WheelConfig, main)
