"""Fixtures that every kind of test shares. Tests make their own data; only evaluation data is looked for."""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from benchmarks import ports

if TYPE_CHECKING:  # rendering is loaded only by the tests that ask for a photo
    from benchmarks.photos import Photo

# Two processes of tests with two threads each share two cores: who spins at a barrier takes the core from the thread it
# waits for, and what takes a second alone takes half a minute. Read when torch is loaded; commands inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Each process of pytest-xdist has ports of its own: gw0 the even ones of two. Commands inherit this too.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ[ports.SHARE] = f"{worker.removeprefix('gw')}/{os.environ['PYTEST_XDIST_WORKER_COUNT']}"

REPO = Path(__file__).resolve().parents[1]

# The same examples each time, on a machine of any speed; tests/integration/test_fuzz.py tries others, if asked.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> None:
    """Tests and the commands they run talk to this machine only; a proxy of the developer's would be in the way."""
    for name in list(os.environ):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            del os.environ[name]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root folder."""
    return REPO


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other most of the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of evaluation data beside the repository; the test is skipped where it is not there."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the evaluation data in {folder}, which is not here")
    return folder


@pytest.fixture(scope="session")
def room() -> Photo:
    """One rendered room as a JPEG file, 240 x 320."""
    from benchmarks.photos import photo

    return photo(seed=5, height=240, width=320)


@pytest.fixture(scope="session")
def rooms() -> tuple[Photo, ...]:
    """Seven rendered rooms of different sizes; the portraits are stored on their side with an EXIF orientation."""
    from benchmarks.photos import photo

    sizes = ((240, 320), (320, 240), (97, 131), (301, 203), (64, 200), (480, 360), (120, 121))
    return tuple(photo(seed, height, width) for seed, (height, width) in enumerate(sizes))


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Gives so many different TCP ports that nobody listened on a moment ago."""
    return ports.free_ports


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What export.build makes of two small models: version → its folder. 1.0 is served by ONNX, 2.0 by TorchScript.

    Made once for all processes of pytest-xdist, to be read only: each begins with another one and finds the rest made.
    """
    models = {"1.0": ("onnx", "1"), "2.0": ("torchscript", "2")}
    turns = list(models)[:: -1 if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" else 1]
    folders = {}
    for version in turns:
        make = functools.partial(small_export, version, *models[version])
        folders[version] = made_once(tmp_path_factory, f"exported-{version}", make)
    return folders


def small_export(version: str, engine: str, seed: str, folder: Path) -> None:
    """In a process of its own."""
    command = [sys.executable, "-m", "tests.small_export", str(folder), version, engine, seed]
    # a minute on two quiet cores; the other process of tests waits for the lock meanwhile
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=1500)
    assert result.returncode == 0, result.stderr


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one process of pytest-xdist fills while the others wait; it is there when it is whole."""
    base, worker = tmp_path_factory.getbasetemp(), os.environ.get("PYTEST_XDIST_WORKER", "")
    folder = (base.parent if worker else base) / name
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_name(f"{name}.unfinished")
            unfinished.mkdir(exist_ok=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder
