"""`--json FILE`: a report that took minutes to measure is not lost because of where it was to be written.

json_file.require_place(config.json)                # in __post_init__, before anything is measured
print(markdown)                                     # whatever happens to the file, people have read it
json_file.write(config.json, report)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import host
from segserve.errors import UsageError


def require_place(file: Path | None) -> None:
    """Raises: UsageError if the file could not be written; None is no file."""
    if file is None:
        return
    if file.is_dir():
        raise UsageError(f"--json {file}: that is a folder; name a file in it")
    if not file.parent.is_dir():
        raise UsageError(f"--json {file}: there is no folder {file.parent}; make it, or name another")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UsageError(f"--json {file}: it may not be written by this user; name another file")


def write(file: Path | None, report: Mapping[str, Any]) -> None:
    """As JSON, if a file was named."""
    if file is not None:
        file.write_text(host.json_of(report, indent=2) + "\n", encoding="utf-8")
