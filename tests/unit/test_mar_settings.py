"""Settings are read from a .mar and written into it; nothing else of it changes, and a failure changes nothing."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks import mar_settings
from benchmarks.mar_settings import Settings
from segserve import cpu
from segserve.errors import CheckFailed, UsageError

WEIGHTS = bytes(range(256)) * 5000


@pytest.fixture
def mar(tmp_path: Path, repo_root: Path) -> Path:
    """With the settings that ship."""
    path = tmp_path / "x.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", '{"model": {}}')
        archive.write(repo_root / "handlers" / "model-config.yaml", "model-config.yaml")
        archive.writestr("model.onnx", WEIGHTS)
    path.chmod(0o640)
    return path


def contents(mar: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(mar) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_ships_is_read(mar: Path) -> None:
    assert mar_settings.read(mar) == Settings(workers=1, threads=0, batch_size=2, delay_ms=1)


def test_writing_changes_the_settings_and_nothing_else(mar: Path) -> None:
    before = contents(mar)
    wanted = Settings(workers=3, threads=2, batch_size=16, delay_ms=20)
    mar_settings.write(mar, mar, wanted)
    after = contents(mar)
    assert mar_settings.read(mar) == wanted
    assert list(after) == list(before)  # the order too
    assert {n: d for n, d in after.items() if n != mar_settings.FILE} == {
        n: d for n, d in before.items() if n != mar_settings.FILE
    }
    old, new = (yaml.safe_load(files[mar_settings.FILE]) for files in (before, after))
    changed = {"minWorkers": 3, "maxWorkers": 3, "batchSize": 16, "maxBatchDelay": 20}
    assert new == {**old, **changed, "segserve": {**old["segserve"], "threads": 2}}
    comments = [
        [line for line in files[mar_settings.FILE].decode().splitlines() if "#" in line]
        for files in (before, after)
    ]
    assert comments[0] == comments[1] != []
    assert mar.stat().st_mode & 0o777 == 0o640
    assert list(mar.parent.iterdir()) == [mar]


def test_a_copy_leaves_the_original(mar: Path) -> None:
    original = mar.read_bytes()
    mar_settings.write(mar, mar.with_name("y.mar"), Settings(2, 1, 1, 1))
    assert mar.read_bytes() == original
    assert mar_settings.read(mar.with_name("y.mar")) == Settings(2, 1, 1, 1)


@pytest.mark.parametrize("text", ["segserve: {threads: 0}", "segserve:\n    threads: 0", "# none"])
def test_a_layout_that_is_not_ours_is_not_guessed_at(mar: Path, text: str) -> None:
    """Another indentation, or a setting that is not there: then a line would be missed."""
    with zipfile.ZipFile(mar, "w") as archive:
        archive.writestr(
            mar_settings.FILE, f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: 8\nmaxBatchDelay: 1\n{text}"
        )
    before = mar.read_bytes()
    with pytest.raises((CheckFailed, UsageError)):
        mar_settings.write(mar, mar, Settings(2, 5, 1, 1))
    assert mar.read_bytes() == before


def test_a_disk_that_fails_leaves_the_old_file(mar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = mar.read_bytes()
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        mar_settings.write(mar, mar, Settings(2, 1, 1, 1))
    assert mar.read_bytes() == before
    assert list(mar.parent.iterdir()) == [mar]


@pytest.mark.parametrize("content", [b"", b"PK torn", None])
def test_what_is_no_mar_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.mar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="no model archive"):
        mar_settings.read(path)


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: 12)
    at = Settings(workers=3, threads=0, batch_size=1, delay_ms=1)
    assert [s.threads_each() for s in (at, replace(at, threads=7), replace(at, workers=30))] == [4, 7, 1]
