"""The settings in a .mar: read them, and write a copy with others. Its comments, manifest and artefacts stay.

settings = read(mar)                                # Settings(workers=1, threads=0, batch_size=8, delay_ms=1)
write(mar, Path("trial.mar"), replace(settings, workers=2))
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segserve import cpu
from segserve.errors import CheckFailed, UsageError

FILE = "model-config.yaml"


@dataclass(frozen=True)
class Settings:
    """How TorchServe runs a model. threads: of each worker, 0 = cores / workers; delay_ms: see maxBatchDelay."""

    workers: int
    threads: int
    batch_size: int
    delay_ms: int

    def threads_each(self) -> int:
        """What a worker really gets, as the handler works it out."""
        return self.threads or max(1, cpu.cores() // self.workers)


def require_files(mar: Path, photos: Path | None) -> None:
    """Raises UsageError for a .mar or a folder of photos that is not there."""
    if not mar.is_file():
        raise UsageError(f"{mar}: no such file; `make package` builds model_store/rooms.mar")
    if photos is not None and not photos.is_dir():
        raise UsageError(f"--photos {photos}: no such folder")


def read(mar: Path) -> Settings:
    """Raises UsageError if the file is no .mar of export.build."""
    config = _parsed(mar, _text(mar))
    try:
        threads = int(config["segserve"]["threads"])
        return Settings(
            int(config["maxWorkers"]), threads, int(config["batchSize"]), int(config["maxBatchDelay"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{mar}: {FILE} lacks a setting ({error}); build it again with export.build"
        ) from None


def write(source: Path, target: Path, settings: Settings) -> None:
    """Copy `source` to `target` (they may be the same) with other settings, in one step.

    Raises UsageError as `read` does; CheckFailed if the new text does not say what was meant.
    """
    changes = {
        "minWorkers": settings.workers, "maxWorkers": settings.workers, "batchSize": settings.batch_size,
        "maxBatchDelay": settings.delay_ms, "  threads": settings.threads,
    }  # fmt: skip
    text = _text(source)
    for key, value in changes.items():
        text = re.sub(rf"(?m)^{key}:.*$", f"{key}: {value}", text)
    before, after = _parsed(source, _text(source)), _parsed(source, text)
    expected = {**before, **{key: value for key, value in changes.items() if key[0] != " "}}
    if after != {**expected, "segserve": {**before["segserve"], "threads": settings.threads}}:
        raise CheckFailed(f"{source}: {FILE} is not laid out as export.build writes it; edit it by hand")
    handle, partial = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with (
            os.fdopen(handle, "wb") as file,
            zipfile.ZipFile(source) as old,
            zipfile.ZipFile(file, "w") as new,
        ):
            for item in old.infolist():
                if item.filename == FILE:
                    new.writestr(item, text)
                else:
                    with old.open(item) as reader, new.open(item, "w") as writer:
                        shutil.copyfileobj(reader, writer, 1 << 20)
        os.chmod(partial, source.stat().st_mode)
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


def _text(mar: Path) -> str:
    try:
        with zipfile.ZipFile(mar) as archive:
            return archive.read(FILE).decode()
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UsageError(f"{mar} is no model archive ({error}); `make package` builds one") from None


def _parsed(mar: Path, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{mar}: {FILE} is no YAML ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("segserve"), dict):
        raise UsageError(f"{mar}: {FILE} has no section segserve; build it again with export.build")
    return config
