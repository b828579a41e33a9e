"""The end of a rollout that is cut off after its version came into service: what it says, and who finishes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy import canary, incoming, journal, rollout, served, status
from deploy.canary import Canary
from deploy.interrupts import Asked
from deploy.journal import Journal
from deploy.management import Management
from deploy.metrics import Scrape
from deploy.rollout_options import RolloutConfig
from deploy.run_folder import Running
from deploy.served import Served
from deploy.status import StatusConfig
from deploy.undo import recover, undo
from deploy.watch import Before
from segserve.errors import ServerError, Unreachable, UsageError
from tests.fake_management import NEW_FILE, OLD_FILE, FakeManagement, between_versions, folders, unpacked
from tests.mute import Mute
from tests.specs import make_spec

NOTHING = Scrape(())
BEFORE = Before("1.0", NOTHING, NOTHING, 10.0)


@dataclass(frozen=True)
class Seen:
    """What a watch saw."""

    pings: int = 1


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return between_versions(tmp_path)


@pytest.fixture
def roll_out(running: Running, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`deploy.rollout` of 2.0 with that management; what the new version is judged by is left out."""

    def register(self: rollout.Rollout) -> Path:
        self._journal = Journal("rooms", "2.0", NEW_FILE, "1.0")
        self._management.files["2.0"] = NEW_FILE  # type: ignore[attr-defined]
        return Path(running.model_store) / NEW_FILE

    def go(management: FakeManagement, **options: Any) -> int:
        monkeypatch.setattr(Management, "of", lambda _: management)
        monkeypatch.setattr(rollout, "Interrupts", Mute)
        monkeypatch.setattr(rollout, "scrape", lambda _: NOTHING)
        monkeypatch.setattr(rollout, "Watcher", lambda *_: SimpleNamespace(watch=lambda *_, **__: Seen()))
        monkeypatch.setattr(rollout.Rollout, "_register", register)
        monkeypatch.setattr(rollout.Rollout, "_probe", lambda *_: BEFORE)
        monkeypatch.setattr(incoming, "check", lambda _: make_spec(version="2.0"))
        return rollout.main(RolloutConfig(Path("new.mar"), run_dir=Path(running.run_dir), **options))

    return go


class InterruptedAt(FakeManagement):
    """Ctrl-C, or another error, in the midst of one call: `unregister` has happened by then, `drain` has not."""

    def __init__(self, call: str, error: Exception) -> None:
        super().__init__({"1.0": OLD_FILE})
        self._call, self._error = call, error

    def drain(self, name: str, version: str, timeout_s: float, settle_s: float = 2.0) -> bool:
        if self._call == "drain":
            raise self._error
        return True

    def unregister(self, name: str, version: str) -> None:
        super().unregister(name, version)
        raise self._error


def test_undisturbed_the_old_version_goes_with_its_folder(
    running: Running, roll_out: Callable[..., int]
) -> None:
    management = FakeManagement({"1.0": OLD_FILE})
    assert roll_out(management) == 0
    assert management.asked == ["default 2.0", "drain 1.0", "unregister 1.0"]
    assert folders(running) == [NEW_FILE]
    assert journal.load(Path(running.run_dir)) is None


@pytest.mark.parametrize(
    "error", [Asked("interrupted"), ServerError("no answer in 10 s")], ids=["ctrl-c", "error"]
)
@pytest.mark.parametrize("call", ["drain", "unregister"])
def test_cut_off_while_the_old_version_goes_the_new_one_is_in_service(
    running: Running,
    roll_out: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    call: str,
    error: Exception,
) -> None:
    management, run_dir = InterruptedAt(call, error), Path(running.run_dir)
    assert roll_out(management, json=True) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["new"] == "2.0"
    left = {
        "drain": "rooms 2.0 is in service; 1.0 will go with the next rollout; "
        "`python -m deploy.rollback` goes back to 1.0",
        "unregister": "rooms 2.0 is in service; the next rollout clears up",
    }[call]
    assert printed.err.endswith(f"{error}\n{left}\n")
    kept = {"1.0": OLD_FILE} if call == "drain" else {}
    assert served.load(run_dir)["rooms"] == Served("2.0", {"2.0": NEW_FILE, **kept}, "1.0" if kept else None)

    after = FakeManagement({"2.0": NEW_FILE, **kept})
    recover(running, after, lambda _: None)
    assert list(after.files) == ["2.0"]
    assert folders(running) == [NEW_FILE]
    assert served.load(run_dir)["rooms"] == Served("2.0", {"2.0": NEW_FILE})
    assert journal.load(run_dir) is None


def test_an_old_version_that_clients_name_stays_and_is_not_forgotten(
    running: Running,
    roll_out: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    management = FakeManagement({"1.0": OLD_FILE})
    monkeypatch.setattr(management, "drain", lambda *_: False)
    assert roll_out(management) == 0
    assert "1.0 still gets requests that name it, so it stays" in capsys.readouterr().err
    assert management.asked == ["default 2.0"]
    assert folders(running) == [OLD_FILE, NEW_FILE]
    assert served.load(Path(running.run_dir))["rooms"].files == {"2.0": NEW_FILE, "1.0": OLD_FILE}
    assert journal.load(Path(running.run_dir)) is None


@pytest.mark.parametrize(
    "trouble", [None, ServerError("nginx does not take it"), OSError(28, "No space left on device")]
)
def test_one_that_is_taken_back_takes_its_canary_along(
    running: Running, monkeypatch: pytest.MonkeyPatch, trouble: Exception | None
) -> None:
    """Once clients have the old version as the default, before the new one goes, which a broken front does not keep."""
    management = FakeManagement({"1.0": OLD_FILE, "2.0": NEW_FILE})

    def clear_canary(*_: object) -> None:
        management.asked.append("canary off")
        if trouble:
            raise trouble

    monkeypatch.setattr(canary, "clear_canary", clear_canary)
    said = undo(running, management, Journal("rooms", "2.0", NEW_FILE, "1.0", reached=True))
    told, _, advice = said.partition("\n")
    assert told == "rolled back: rooms 1.0 is in service, 2.0 is gone"
    assert ("deploy.front canary rooms --off" in advice and str(trouble) in advice) is bool(trouble)
    assert management.asked == ["default 1.0", "canary off", "drain 2.0", "unregister 2.0"]
    assert folders(running) == [OLD_FILE]
    assert journal.load(Path(running.run_dir)) is None


def test_a_file_that_is_no_longer_what_the_server_loaded_from_it_is_not_compared_with(
    running: Running, roll_out: Callable[..., int]
) -> None:
    """As after the new package was copied over the one in service."""
    make_spec(version="2.0").save(Path(running.model_store) / OLD_FILE / "model_spec.json")
    management = FakeManagement({"1.0": OLD_FILE})
    with pytest.raises(
        UsageError,
        match=rf"loaded rooms 1\.0 from .*{OLD_FILE}, which is version 2\.0 now: put the old package",
    ):
        roll_out(management)
    assert management.asked == []
    assert folders(running) == [OLD_FILE, NEW_FILE]


@pytest.mark.parametrize("content", [b"half of a package", None], ids=["torn", "renamed"])
def test_a_package_in_service_that_was_torn_or_renamed_is_wrong_usage(
    running: Running, roll_out: Callable[..., int], content: bytes | None
) -> None:
    if content is not None:
        (Path(running.model_store) / "rooms.mar").write_bytes(content)
    management = FakeManagement({"1.0": "rooms.mar"})
    with pytest.raises(
        UsageError, match=r"rooms\.mar is no longer what the server loaded .*put the old package"
    ):
        roll_out(management)
    assert management.asked == []


def test_a_server_that_dies_then_is_told_with_what_it_comes_back_as(
    running: Running, roll_out: Callable[..., int]
) -> None:
    class Dies(FakeManagement):
        def drain(self, name: str, version: str, timeout_s: float, settle_s: float = 2.0) -> bool:
            self.versions = self.gone  # type: ignore[method-assign]
            self.gone(name)
            return False

        def gone(self, name: str) -> Any:
            raise Unreachable("refused")

    with pytest.raises(
        ServerError, match=r"2\.0 was in service .*refused.*started again, it serves rooms 2\.0"
    ):
        roll_out(Dies({"1.0": OLD_FILE}))


def test_a_kept_version_that_did_not_load_goes_with_its_folder_too(
    running: Running, roll_out: Callable[..., int]
) -> None:
    unpacked(running, "rooms-0.9-0000009a")
    files = {"1.0": OLD_FILE, "0.9": "rooms-0.9-0000009a"}
    served.save(Path(running.run_dir), {"rooms": Served("1.0", files, kept="0.9")})
    assert roll_out(FakeManagement({"1.0": OLD_FILE}), keep=True) == 0
    assert folders(running) == [OLD_FILE, NEW_FILE]
    assert served.load(Path(running.run_dir)) == {
        "rooms": Served("2.0", {"2.0": NEW_FILE, "1.0": OLD_FILE}, kept="1.0")
    }


def test_a_kept_version_that_did_not_load_can_be_rolled_out_repaired(
    running: Running, roll_out: Callable[..., int]
) -> None:
    """By the same number."""
    unpacked(running, "rooms-2.0-0000002d")
    files = {"1.0": OLD_FILE, "2.0": "rooms-2.0-0000002d"}
    served.save(Path(running.run_dir), {"rooms": Served("1.0", files, kept="2.0")})
    management = FakeManagement({"1.0": OLD_FILE})
    assert roll_out(management) == 0
    assert management.asked == ["default 2.0", "drain 1.0", "unregister 1.0"]
    assert folders(running) == [NEW_FILE]
    assert served.load(Path(running.run_dir)) == {"rooms": Served("2.0", {"2.0": NEW_FILE})}
    assert journal.load(Path(running.run_dir)) is None


def test_a_spare_version_that_did_not_load_and_was_not_kept_is_tried_by_the_next_start(
    running: Running, roll_out: Callable[..., int]
) -> None:
    unpacked(running, "rooms-0.8")
    served.save(Path(running.run_dir), {"rooms": Served("1.0", {"1.0": OLD_FILE, "0.8": "rooms-0.8"})})
    assert roll_out(FakeManagement({"1.0": OLD_FILE})) == 0
    assert folders(running) == ["rooms-0.8", NEW_FILE]
    assert served.load(Path(running.run_dir)) == {
        "rooms": Served("2.0", {"2.0": NEW_FILE, "0.8": "rooms-0.8"})
    }


@pytest.mark.parametrize("written", [False, True], ids=["in the journal's fsync", "behind it"])
def test_cut_off_as_it_is_written_down_that_the_new_version_stays_it_goes(
    running: Running, roll_out: Callable[..., int], monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """Memory, journal and models.json agree then."""
    commit, save = rollout.Rollout._commit, Journal.save

    def interrupted(*arguments: Any) -> None:
        if written:
            save(*arguments)
        raise Asked("interrupted")

    def cut_off(self: rollout.Rollout) -> Journal:
        with monkeypatch.context() as patch:
            where, what = (Journal, "save") if written else (os, "fsync")
            patch.setattr(where, what, interrupted)
            return commit(self)

    monkeypatch.setattr(rollout.Rollout, "_commit", cut_off)
    management, run_dir = FakeManagement({"1.0": OLD_FILE}), Path(running.run_dir)
    assert roll_out(management) == rollout.INTERRUPTED
    assert (management.default, list(management.files), folders(running)) == ("1.0", ["1.0"], [OLD_FILE])
    assert served.load(run_dir) == {"rooms": Served("1.0", {"1.0": OLD_FILE})}
    assert journal.load(run_dir) is None


@pytest.mark.parametrize(("committed", "healthy"), [(False, False), (True, True)])
def test_only_a_rollout_that_was_cut_off_before_is_an_alarm(committed: bool, healthy: bool) -> None:
    rows = [{"name": "rooms", "version": "2.0", "workers_ready": 1, "default": True, "canary": False}]
    left = Journal("rooms", "2.0", NEW_FILE, "1.0", committed=committed, going=("1.0",))
    assert status.is_ready(rows, left, at_work=False) is healthy
    assert status.is_ready(rows, left, at_work=True)


def test_status_is_good_and_names_what_did_not_load(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = Path(running.run_dir)
    monkeypatch.setattr(Management, "of", lambda _: FakeManagement({"2.0": NEW_FILE}))
    served.save(run_dir, {"rooms": Served("2.0", {"2.0": NEW_FILE, "1.0": OLD_FILE}, "1.0")})
    assert status.main(StatusConfig(run_dir)) == 0
    assert f"rooms={OLD_FILE} is missing: it did not load" in capsys.readouterr().out
    assert status.main(StatusConfig(run_dir, json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ready"], found["missing"]) == (True, [f"rooms={OLD_FILE}"])
    assert [(row["version"], row["default"]) for row in found["versions"]] == [("2.0", True)]


@pytest.mark.parametrize("canary_share", [None, 0.05])
def test_a_kept_version_whose_worker_died_is_named_and_an_alarm_only_where_it_gets_requests(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    canary_share: float | None,
) -> None:
    run_dir = Path(running.run_dir)
    management = FakeManagement({"2.0": NEW_FILE, "1.0": OLD_FILE}, dying=("1.0",))
    monkeypatch.setattr(Management, "of", lambda _: management)
    canaries = {"rooms": Canary("1.0", canary_share)} if canary_share else {}
    monkeypatch.setattr(status, "front_running", lambda _: SimpleNamespace(canaries=canaries))
    served.save(run_dir, {"rooms": Served("2.0", {"2.0": NEW_FILE, "1.0": OLD_FILE}, "1.0")})
    assert status.main(StatusConfig(run_dir)) == (1 if canary_share else 0)
    assert "rooms 1.0 has no READY worker; why is in" in capsys.readouterr().out
    management.dying = ("2.0",)
    assert status.main(StatusConfig(run_dir)) == 1
