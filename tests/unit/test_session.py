"""What a session of `benchmarks.run` keeps of a load, and whose golden masks it holds the answers against."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from benchmarks import answers, session
from benchmarks.run_options import Latency
from benchmarks.sampling import Sampler
from benchmarks.session import Phase, Session
from tests.run_rows import BEGAN, row

SERVER = "http://127.0.0.1:1"


def a_session(folder: Path) -> Session:
    folder.mkdir()
    sampler = Sampler(folder / "samples.jsonl", None)
    options = Latency(folder.parent / "out", SERVER)
    return Session(options, folder, SERVER, "rooms", 3, None, sampler, (), Console(quiet=True), [])


def test_failures_outside_the_counted_part_are_kept_beside_it(tmp_path: Path) -> None:
    wrong_early, right_early = row(BEGAN - 3, 9, "another mask"), row(BEGAN - 2, 9)
    inside = (row(BEGAN + 1, 9), row(BEGAN + 2, 9, "another mask"))
    lost_late, right_late = row(BEGAN + 12, 9, "status 500: oh", status=500), row(BEGAN + 13, 9)
    file = tmp_path / "load-1.jsonl"
    file.write_text("".join(one.line() for one in (wrong_early, right_early, *inside, lost_late, right_late)))
    file.with_suffix(".log").touch()
    running = a_session(tmp_path / "folder")
    kept = running._keep(Phase("", 1, 0.0, BEGAN, BEGAN + 12, (), (), (), 0.0), file)
    assert (kept.rows, kept.outside) == (inside, (wrong_early, lost_late))
    assert kept.first_due == wrong_early.due
    assert tuple(answers.read(running.folder / "answers.jsonl")) == inside
    assert running.phases == [kept]


def test_a_new_versions_golden_masks_are_known_of_a_server_that_runs_already_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, without = tmp_path / "new.mar", tmp_path / "without.mar"
    monkeypatch.setattr(session, "check_package", lambda path: SimpleNamespace(golden=path == new))
    monkeypatch.setattr(session, "Sampler", lambda *_: contextlib.nullcontext())
    options = Latency(tmp_path / "out", SERVER)
    with session.session(options, packages=(new, without)) as running:
        assert running.packages == (new,)
    with session.session(dataclasses.replace(options, out=tmp_path / "other")) as running:
        assert running.packages == ()
