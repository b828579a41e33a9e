"""What `deploy.server start` writes down of a start, by then waited for: Java, its logs and its answers are made up."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from deploy import journal, served, server
from deploy.journal import Journal
from deploy.management import Management
from deploy.options import Start
from deploy.run_folder import Running
from deploy.served import Served, Wanted
from tests.fake_management import NEW_FILE, OLD_FILE, FakeManagement, between_versions, folders, running_in
from tests.mute import Mute

BEFORE = Served("2.0", {"1.0": "rooms.mar", "2.0": "rooms-2.0"}, kept="1.0")


def start(
    running: Running,
    management: FakeManagement,
    monkeypatch: pytest.MonkeyPatch,
    without: tuple[str, ...] = (),
) -> None:
    def launched(_: Start) -> tuple[Wanted, Running, subprocess.Popen[bytes] | None, None]:
        return Wanted(()), running, None, None

    monkeypatch.setattr(server, "_launch", launched)
    monkeypatch.setattr(server, "wait_ready", lambda *_: without)
    monkeypatch.setattr(server, "Interrupts", Mute)
    monkeypatch.setattr(Management, "of", lambda _: management)
    assert server.start(Start(Path(running.model_store), run_dir=Path(running.run_dir), detach=True)) == 0


@pytest.mark.parametrize(
    ("without", "after"),
    [(("rooms=rooms.mar",), BEFORE), ((), Served("2.0", {"2.0": "rooms-2.0"}))],
    ids=["a spare version did not load", "--models named one version"],
)
def test_a_version_that_did_not_load_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: tuple[str, ...], after: Served
) -> None:
    running, there = running_in(tmp_path), FakeManagement({"2.0": "rooms-2.0"})
    served.save(Path(running.run_dir), {"rooms": BEFORE})
    start(running, there, monkeypatch, without)
    assert served.load(Path(running.run_dir)) == {"rooms": after}


def test_what_a_rollout_left_that_the_end_of_the_server_cut_off_is_cleared_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else status, which is the image's health check, would be 1 until somebody rolls something out."""
    running, there = between_versions(tmp_path), FakeManagement({"1.0": OLD_FILE})
    run_dir = Path(running.run_dir)
    Journal("rooms", "2.0", NEW_FILE, "1.0", reached=True).save(run_dir)
    start(running, there, monkeypatch)
    assert journal.load(run_dir) is None
    assert folders(running) == [OLD_FILE]
    assert served.load(run_dir) == {"rooms": Served("1.0", {"1.0": OLD_FILE})}
    assert there.default == "1.0"


def test_a_version_that_was_named_is_not_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, there = between_versions(tmp_path), FakeManagement({"2.0": NEW_FILE})
    run_dir = Path(running.run_dir)
    Journal("rooms", "2.0", NEW_FILE, "1.0", reached=True).save(run_dir)
    start(running, there, monkeypatch)
    assert journal.load(run_dir) is None
    assert folders(running) == [OLD_FILE, NEW_FILE]
    assert there.asked == []


@pytest.mark.parametrize("at_work", [True, False], ids=["at work", "committed"])
def test_a_rollout_that_goes_on_or_whose_version_stays_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_work: bool
) -> None:
    running = between_versions(tmp_path)
    there = FakeManagement({"1.0": OLD_FILE} if at_work else {"2.0": NEW_FILE, "1.0": OLD_FILE})
    run_dir = Path(running.run_dir)
    left = Journal("rooms", "2.0", NEW_FILE, "1.0", True, not at_work, ("1.0",))
    left.save(run_dir)
    with journal.exclusive(run_dir) if at_work else contextlib.nullcontext():
        start(running, there, monkeypatch)
    assert journal.load(run_dir) == left
    assert folders(running) == [OLD_FILE, NEW_FILE]
    assert there.asked == []


def test_a_journal_that_is_torn_is_told_and_ends_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = between_versions(tmp_path)
    (Path(running.run_dir) / journal.JOURNAL_FILE).write_text("{")
    start(running, FakeManagement({"1.0": OLD_FILE}), monkeypatch)
    assert "rollout.json cannot be read" in capsys.readouterr().err
