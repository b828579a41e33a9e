"""RUN/models.json and RUN/rollout.json: what a restart comes back with, what a killed rollout leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deploy import journal, served
from deploy.journal import Journal
from deploy.served import Served, Wanted
from segserve.errors import ServerError, UsageError


def test_a_first_start_serves_the_demo_model(tmp_path: Path) -> None:
    assert served.wanted(tmp_path / "none", ()) == Wanted(("rooms=rooms.mar",))


def test_a_restart_serves_what_was_served_and_needs_the_defaults_of_it(tmp_path: Path) -> None:
    models = {
        "rooms": Served("2.0", {"1.0": "rooms.mar", "2.0": "rooms-2.0"}, kept="1.0"),
        "b": Served("1.0", {"1.0": "b.mar"}),
    }
    served.save(tmp_path, models)
    assert served.load(tmp_path) == models
    last = ("rooms=rooms-2.0", "rooms=rooms.mar", "b=b.mar")
    assert served.wanted(tmp_path, ()) == Wanted(last, frozenset({"rooms=rooms.mar"}))
    assert served.wanted(tmp_path, last) == Wanted(last)  # who names them wants them all


def test_a_torn_state_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / served.SERVED_FILE).write_text("{")
    with pytest.raises(ServerError, match="remove it and start with --models"):
        served.wanted(tmp_path, ())


def test_a_commit_keeps_the_other_models(tmp_path: Path) -> None:
    served.save(
        tmp_path, {"b": Served("1.0", {"1.0": "b.mar"}), "rooms": Served("1.0", {"1.0": "rooms.mar"})}
    )
    rollout = Journal("rooms", "2.0", "rooms-2.0", "1.0")
    served.commit(tmp_path, rollout, {"1.0": "rooms.mar"})
    assert served.load(tmp_path)["rooms"] == Served("2.0", {"2.0": "rooms-2.0", "1.0": "rooms.mar"}, "1.0")
    served.commit(tmp_path, rollout, {})
    assert served.load(tmp_path) == {
        "b": Served("1.0", {"1.0": "b.mar"}),
        "rooms": Served("2.0", {"2.0": "rooms-2.0"}),
    }


def test_the_journal_is_there_until_it_is_cleared(tmp_path: Path) -> None:
    assert journal.load(tmp_path) is None
    entry = Journal("rooms", "2.0", "rooms-2.0", "1.0", committed=True, going=("1.0",))
    entry.save(tmp_path)
    assert journal.load(tmp_path) == entry
    with_files = dataclasses.replace(entry, files={"1.0": "rooms.mar"})
    with_files.save(tmp_path)
    assert journal.load(tmp_path) == with_files
    journal.clear(tmp_path)
    assert journal.load(tmp_path) is None
    journal.clear(tmp_path)


def test_two_rollouts_at_once_are_refused(tmp_path: Path) -> None:
    with (
        journal.exclusive(tmp_path),
        pytest.raises(UsageError, match="is at work"),
        journal.exclusive(tmp_path),
    ):
        pass
    with journal.exclusive(tmp_path):
        pass
