"""`--json FILE`: refused before anything is measured if it can't be written, and read by every reader of JSON."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from benchmarks import json_file, served, tune
from benchmarks.gpu_check import GpuCheckConfig
from segserve.errors import UsageError


def test_a_place_where_nothing_can_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    json_file.require_place(None)
    json_file.require_place(tmp_path / "new.json")
    with pytest.raises(UsageError, match="that is a folder"):
        json_file.require_place(tmp_path)
    with pytest.raises(UsageError, match=f"there is no folder {tmp_path / 'none'}"):
        json_file.require_place(tmp_path / "none" / "new.json")
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (tmp_path, os.W_OK))
    with pytest.raises(UsageError, match="may not be written by this user"):
        json_file.require_place(tmp_path / "new.json")


def test_the_commands_refuse_it_before_they_measure(tmp_path: Path) -> None:
    mar, nowhere = tmp_path / "x.mar", tmp_path / "none" / "new.json"
    mar.touch()
    for refused in (
        lambda: served.Config(mar, json=nowhere),
        lambda: tune.Config(mar, json=nowhere),
        lambda: GpuCheckConfig(as_json=nowhere),
    ):
        with pytest.raises(UsageError, match="there is no folder"):
            refused()


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    json_file.write(file, {"p50": math.nan, "rows": [{"ms": math.inf, "n": 3}]})
    found = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {"p50": None, "rows": [{"ms": None, "n": 3}]}
