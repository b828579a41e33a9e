"""Starting again when a version was damaged meanwhile: without it if it was a spare one, never without the default."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import run_folder, served
from tests.e2e.serving import ECHO, archive, run, start_options

pytestmark = pytest.mark.timeout(900)  # several starts each, which are patient with a busy machine


def gone(mar: Path) -> None:
    mar.unlink()


def torn(mar: Path) -> None:
    mar.write_bytes(mar.read_bytes()[:50])


def no_model(mar: Path) -> None:
    with zipfile.ZipFile(mar, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", "{")


def broken_handler(mar: Path, version: str) -> None:
    archive(mar, "echo", "import no_such_library\n" + ECHO, version=version)


TWO_VERSIONS = served.Served("2.0", {"2.0": "echo-2.mar", "1.0": "echo-1.mar"})


@pytest.fixture
def own_store(tmp_path: Path) -> Path:
    """A store with both of them, to be damaged."""
    folder = tmp_path / "store"
    folder.mkdir()
    for version, file in TWO_VERSIONS.files.items():
        archive(folder / file, "echo", ECHO, version=version)
    return folder


def restart_without_the_spare_version(run_dir: Path, options: list[str]) -> None:
    restarted = run("deploy.server", "start", "--detach", *options)
    assert restarted.returncode == 0, restarted.stderr
    assert "serves echo 2.0" in restarted.stdout
    assert "the server starts without it, and the next start tries again" in restarted.stderr
    status = run("deploy.status", "--run-dir", run_dir)
    assert status.returncode == 0, status.stdout
    assert "echo=echo-1.mar is missing" in status.stdout
    assert served.load(run_dir) == {"echo": TWO_VERSIONS}
    assert run("deploy.server", "stop", "--run-dir", run_dir).returncode == 0


@pytest.mark.parametrize("damage", [gone, torn, no_model])
def test_a_restart_does_without_a_damaged_spare_version(
    own_store: Path, run_dir: Path, free_ports: Callable[[int], list[int]], damage: Callable[[Path], None]
) -> None:
    """The other ways to start with such files are in tests/unit: test_server_config.py, test_ready.py."""
    (run_folder.create(run_dir) / run_folder.LOCK_FILE).touch()  # what was a server's
    served.save(run_dir, {"echo": TWO_VERSIONS})
    damage(own_store / "echo-1.mar")
    named = start_options(own_store, run_dir, free_ports(2), [])
    restart_without_the_spare_version(run_dir, named[: named.index("--models")])


def test_a_restart_does_without_a_broken_spare_version_and_never_without_the_default(
    own_store: Path, run_dir: Path, free_ports: Callable[[int], list[int]]
) -> None:
    old, new = own_store / "echo-1.mar", own_store / "echo-2.mar"
    named = start_options(own_store, run_dir, free_ports(2), ["echo=echo-2.mar", "echo=echo-1.mar"])
    again = named[: named.index("--models")]
    assert run("deploy.server", "start", "--detach", *named).returncode == 0
    assert run("deploy.server", "stop", "--run-dir", run_dir).returncode == 0
    assert served.load(run_dir) == {"echo": TWO_VERSIONS}

    broken_handler(old, "1.0")
    all_named = run("deploy.server", "start", "--detach", *named)
    assert all_named.returncode == 2  # who names it wants it
    restart_without_the_spare_version(run_dir, again)

    archive(old, "echo", ECHO, version="1.0")
    broken_handler(new, "2.0")
    failed = run("deploy.server", "start", "--detach", *again)
    assert failed.returncode == 2
    assert "workers of echo 2.0 die as soon as they start" in failed.stderr
    assert served.load(run_dir) == {"echo": TWO_VERSIONS}
