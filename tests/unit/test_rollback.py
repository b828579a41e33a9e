"""What an interrupted rollout leaves is put in order: by the next one, by `deploy.rollback`, or by its own way back."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from deploy import canary, journal, rollback, served, undo
from deploy.journal import Journal
from deploy.management import Management
from deploy.rollback import RollbackConfig
from deploy.run_folder import Running
from deploy.served import Served
from deploy.undo import recover, retire
from segserve.errors import CheckFailed, ServerError
from tests.fake_management import NEW_FILE, OLD_FILE, FakeManagement, between_versions, folders, unpacked


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return between_versions(tmp_path)


def with_1_0_kept(running: Running, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeManagement, Path]:
    """2.0 is in service, 1.0 warm. Returns: the management that commands get, and the run folder."""
    management, run_dir = FakeManagement({"2.0": NEW_FILE, "1.0": OLD_FILE}), Path(running.run_dir)
    monkeypatch.setattr(Management, "of", lambda _: management)
    served.save(run_dir, {"rooms": Served("2.0", {"2.0": NEW_FILE, "1.0": OLD_FILE}, "1.0")})
    return management, run_dir


def test_what_is_being_undone_is_no_longer_committed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that fails meanwhile leaves the rest to the next rollout, which must go the same way."""
    management, run_dir = FakeManagement({"1.0": OLD_FILE, "2.0": NEW_FILE}), Path(running.run_dir)

    def fails(*_: Any) -> None:
        raise ServerError("500")

    monkeypatch.setattr(undo, "GOING_S", 0.0)
    monkeypatch.setattr(management, "drain", fails)
    began = Journal("rooms", "2.0", NEW_FILE, "1.0", reached=True)
    dataclasses.replace(began, committed=True).save(run_dir)  # memory was not told before the signal came
    with pytest.raises(CheckFailed, match=r"2\.0 could not be taken back"):
        undo.undo(running, management, began)
    assert journal.load(run_dir) == began


def test_a_server_that_came_back_without_the_new_version_keeps_its_old_one(running: Running) -> None:
    """It ended between the last step and the note of it in models.json."""
    left = Journal("rooms", "2.0", NEW_FILE, "1.0", reached=True, committed=True, going=("1.0",))
    left.save(Path(running.run_dir))
    management, said = FakeManagement({"1.0": OLD_FILE}), list[str]()
    recover(running, management, said.append)
    assert list(management.files) == ["1.0"]
    assert folders(running) == [OLD_FILE]
    assert said[-1] == "rolled back: rooms 1.0 is in service, 2.0 is gone"


def test_a_journal_of_before_tells_no_files_and_the_folder_goes_all_the_same(running: Running) -> None:
    management = FakeManagement({"2.0": NEW_FILE, "1.0": OLD_FILE})
    said = retire(
        running, management, Journal("rooms", "2.0", NEW_FILE, "1.0", committed=True, going=("1.0",))
    )
    assert said == "rooms 2.0 is in service; 1.0 is gone"
    assert folders(running) == [NEW_FILE]


def test_a_folder_that_the_operator_unpacked_stays_when_its_version_goes(running: Running) -> None:
    unpacked(running, "rooms")
    management = FakeManagement({"2.0": NEW_FILE, "1.0": "rooms"})
    rollout = Journal("rooms", "2.0", NEW_FILE, "1.0", committed=True, going=("1.0",), files={"1.0": "rooms"})
    assert retire(running, management, rollout) == "rooms 2.0 is in service; 1.0 is gone"
    assert "rooms" in folders(running)


def test_rollback_calls_off_what_is_left_of_a_rollout(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    management, run_dir = with_1_0_kept(running, monkeypatch)
    Journal("rooms", "2.0", NEW_FILE, "1.0", committed=True, going=("1.0",), files={"1.0": OLD_FILE}).save(
        run_dir
    )
    assert rollback.main(RollbackConfig(run_dir=run_dir)) == 0
    assert (management.default, journal.load(run_dir)) == ("1.0", None)
    assert served.load(run_dir)["rooms"] == Served("1.0", {"2.0": NEW_FILE, "1.0": OLD_FILE}, "2.0")


@pytest.mark.parametrize("error", [None, ServerError("no answer in 10 s")])
def test_rollback_retires_what_had_to_go_beside_the_version_that_it_goes_back_to(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception | None,
) -> None:
    """1.0 was kept, 2.0 in service; the rollout of 3.0 was interrupted before it had retired either."""
    unpacked(running, "rooms-3.0", "rooms-3.0-0000003d")
    files = {"3.0": "rooms-3.0", "1.0": OLD_FILE, "2.0": NEW_FILE}
    management, run_dir = FakeManagement(files), Path(running.run_dir)
    monkeypatch.setattr(Management, "of", lambda _: management)
    served.save(run_dir, {"rooms": Served("3.0", files, kept="2.0")})
    left = Journal("rooms", "3.0", "rooms-3.0", "2.0", committed=True, going=("1.0", "2.0"))
    dataclasses.replace(left, files={**files, "3.0": "rooms-3.0-0000003d"}).save(run_dir)

    def drain(*_: Any) -> bool:
        if error is not None:
            raise error
        return True

    monkeypatch.setattr(management, "drain", drain)
    assert rollback.main(RollbackConfig(run_dir=run_dir)) == 0
    said, *rest = capsys.readouterr().out.splitlines()
    assert said == "rooms 2.0 is in service; 3.0 is kept warm"
    if error is not None:
        assert rest == [str(error), "rooms 2.0 is in service; 1.0 will go with the next rollout"]
        monkeypatch.undo()
        recover(running, management, rest.append)
    assert rest[-1] == "rooms 2.0 is in service; 1.0 is gone"
    assert [asked for asked in management.asked if "drain" not in asked] == ["default 2.0", "unregister 1.0"]
    assert (management.default, sorted(management.files)) == ("2.0", ["2.0", "3.0"])
    assert folders(running) == [NEW_FILE, "rooms-3.0"]
    assert served.load(run_dir)["rooms"] == Served("2.0", {"2.0": NEW_FILE, "3.0": "rooms-3.0"}, "3.0")
    assert journal.load(run_dir) is None


def test_on_a_full_disk_what_had_to_go_beside_it_is_named(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal is gone, so nothing else would tell of it."""
    files = {"3.0": "rooms-3.0", "1.0": OLD_FILE, "2.0": NEW_FILE}
    management, run_dir = FakeManagement(files), Path(running.run_dir)
    monkeypatch.setattr(Management, "of", lambda _: management)
    served.save(run_dir, {"rooms": Served("3.0", files, kept="2.0")})
    Journal("rooms", "3.0", "rooms-3.0", "2.0", committed=True, going=("1.0", "2.0"), files=files).save(
        run_dir
    )

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ServerError, match=r"again; 1\.0 stay loaded until a start with --models leaves them out"
    ):
        rollback.main(RollbackConfig(run_dir=run_dir))
    assert management.default == "2.0"


@pytest.mark.parametrize("model", [None, "rooms"])
def test_rollback_undoes_a_rollout_that_was_cut_off_before_and_no_more(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str | None,
) -> None:
    """0.9 was kept before: one step back is what was asked for."""
    unpacked(running, "rooms-0.9")
    management, run_dir = (
        FakeManagement({"1.0": OLD_FILE, "0.9": "rooms-0.9", "2.0": NEW_FILE}),
        Path(running.run_dir),
    )
    monkeypatch.setattr(Management, "of", lambda _: management)
    management.default = "2.0"
    before = {"rooms": Served("1.0", {"1.0": OLD_FILE, "0.9": "rooms-0.9"}, kept="0.9")}
    served.save(run_dir, before)
    Journal("rooms", "2.0", NEW_FILE, "1.0", reached=True).save(run_dir)
    assert rollback.main(RollbackConfig(model, run_dir=run_dir)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "the rollout of rooms 2.0 was cut off; clearing up after it",
        "rolled back: rooms 1.0 is in service, 2.0 is gone",
    ]
    assert management.asked == ["default 1.0", "drain 2.0", "unregister 2.0"]
    assert (served.load(run_dir), journal.load(run_dir)) == (before, None)
    assert folders(running) == ["rooms-0.9", OLD_FILE]


def test_rollback_of_another_model_goes_on_when_that_is_undone(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    management, run_dir = with_1_0_kept(running, monkeypatch)
    Journal("floors", "7", "floors-7-0000007f", "6").save(run_dir)
    assert rollback.main(RollbackConfig("rooms", run_dir)) == 0
    assert (management.default, journal.load(run_dir)) == ("1.0", None)


def test_rollback_goes_back_where_only_the_journal_says_that_the_new_version_stays(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was cut off before models.json said so too."""
    management, run_dir = FakeManagement({"2.0": NEW_FILE, "1.0": OLD_FILE}), Path(running.run_dir)
    monkeypatch.setattr(Management, "of", lambda _: management)
    Journal("rooms", "2.0", NEW_FILE, "1.0", True, True, ("1.0",), {"1.0": OLD_FILE}).save(run_dir)
    assert rollback.main(RollbackConfig(run_dir=run_dir)) == 0
    assert management.asked == ["default 1.0"]
    assert served.load(run_dir)["rooms"] == Served("1.0", {"2.0": NEW_FILE, "1.0": OLD_FILE}, "2.0")
    assert journal.load(run_dir) is None


def test_a_front_that_cannot_be_told_does_not_bring_back_what_was_left(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart comes back with what models.json says."""
    management, run_dir = with_1_0_kept(running, monkeypatch)

    def clear_canary(*_: Any) -> None:
        raise ServerError("nginx does not take its configuration")

    monkeypatch.setattr(canary, "clear_canary", clear_canary)
    with pytest.raises(ServerError, match=r"nginx does not take .*deploy\.front canary rooms --off"):
        rollback.main(RollbackConfig(run_dir=run_dir))
    assert management.default == "1.0"
    assert served.load(run_dir)["rooms"] == Served("1.0", {"2.0": NEW_FILE, "1.0": OLD_FILE}, "2.0")


@pytest.mark.parametrize("front", [None, ServerError("nginx does not take its configuration")])
def test_a_full_disk_does_not_hide_that_the_kept_version_is_in_service(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    front: Exception | None,
) -> None:
    """The canary goes all the same: it may be the version that was left."""
    management, run_dir = with_1_0_kept(running, monkeypatch)
    before = served.load(run_dir)

    def clear_canary(*_: Any) -> None:
        management.asked.append("canary off")
        if front is not None:
            raise front

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(canary, "clear_canary", clear_canary)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            ServerError, match=r"rooms 1\.0 is in service now, but a restart .*2\.0"
        ) as raised:
            rollback.main(RollbackConfig(run_dir=run_dir))
    said = str(raised.value)
    assert "No space left on device" in said
    assert f"-m deploy.rollback --run-dir {run_dir} --model rooms again" in said
    assert ("deploy.front canary rooms --off" in said) is bool(front)
    assert management.asked == ["default 1.0", "canary off"]
    assert served.load(run_dir) == before
    assert "kept warm" not in capsys.readouterr().out


def test_after_a_full_disk_the_same_command_ends_what_it_began(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    management, run_dir = with_1_0_kept(running, monkeypatch)
    management.default = "1.0"
    assert rollback.main(RollbackConfig("rooms", run_dir)) == 0
    assert management.default == "1.0"
    assert served.load(run_dir)["rooms"] == Served("1.0", {"2.0": NEW_FILE, "1.0": OLD_FILE}, "2.0")
