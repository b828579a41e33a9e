"""Which versions a start waits for, or does without, and what it says of the others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.management import Management
from deploy.ready import StartLogs, wait_ready
from deploy.served import Wanted
from segserve.errors import ServerError, Unreachable
from tests.fake_management import FakeManagement, running_in

BOTH = ("rooms=rooms-2.0", "rooms=rooms.mar")
NOT_LOADED = """\
2026-01-01T00:00:00,001 [WARN ] main ModelServer - Failed to load model: other.mar
org.pytorch.serve.archive.model.ModelNotFoundException: another one
2026-01-01T00:00:00,002 [WARN ] main ModelServer - Failed to load model: {file}
org.pytorch.serve.archive.model.InvalidModelException: its manifest is torn
\tat org.pytorch.serve.archive.model.ModelArchive.validate(ModelArchive.java:1)
"""
DIED = "x [INFO ] W-9000-rooms_{version} WorkerThread - Retry worker: 9000 in 1 seconds.\n"


class Java(subprocess.Popen[bytes]):
    """Runs, as far as anybody asks."""

    def __init__(self) -> None: ...

    def __del__(self) -> None: ...

    def poll(self) -> int | None:
        return None


Start = Callable[[FakeManagement, str, Wanted, float], tuple[tuple[str, ...], list[str]]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Waits for a server with these versions and this ts_log.log. Returns: what it does without, and what was said."""

    def go(
        server: FakeManagement, log: str, wanted: Wanted, timeout_s: float = 60
    ) -> tuple[tuple[str, ...], list[str]]:
        running, said = running_in(tmp_path), list[str]()
        logs = StartLogs(Path(running.log_dir))
        Path(running.log_dir).mkdir()
        (Path(running.log_dir) / "ts_log.log").write_text(log)
        monkeypatch.setattr(Management, "of", lambda _: server)
        return wait_ready(running, Java(), logs, timeout_s, said.append, wanted), said

    return go


def test_all_that_was_asked_for_is_there(start: Start) -> None:
    server = FakeManagement({"2.0": "rooms-2.0", "1.0": "rooms.mar"})
    assert start(server, "", Wanted(BOTH), 60) == ((), [])


@pytest.mark.parametrize(
    ("file", "there", "spare"),
    [
        ("rooms.mar", {"2.0": "rooms-2.0"}, frozenset[str]()),  # one of two that --models names
        ("rooms-2.0", {"1.0": "rooms.mar"}, frozenset(BOTH[1:])),  # the default of a restart
        ("rooms.mar", {"2.0": "rooms-2.0"}, frozenset(BOTH[:1])),
    ],
)
def test_a_version_that_was_not_loaded_ends_the_start_with_its_reason(
    start: Start, file: str, there: dict[str, str], spare: frozenset[str]
) -> None:
    server = FakeManagement(there)
    with pytest.raises(
        ServerError,
        match=rf"^rooms={file} was not loaded: InvalidModelException: its manifest is torn; see .*logs$",
    ):
        start(server, NOT_LOADED.format(file=file), Wanted(BOTH, spare), 60)
    assert server.asked == []


def test_a_spare_version_that_was_not_loaded_is_told_and_the_service_is_back(start: Start) -> None:
    server = FakeManagement({"2.0": "rooms-2.0"})
    without, (said,) = start(
        server, NOT_LOADED.format(file="rooms.mar"), Wanted(BOTH, frozenset(BOTH[1:])), 60
    )
    assert without == ("rooms=rooms.mar",)
    assert "rooms=rooms.mar was not loaded: InvalidModelException: its manifest is torn; the server" in said


def test_a_spare_version_that_torchserve_was_not_even_given_is_told_too(start: Start) -> None:
    _, (said,) = start(FakeManagement({"2.0": "rooms-2.0"}), "", Wanted(BOTH, frozenset(BOTH[1:])), 60)
    assert said.startswith(
        "rooms=rooms.mar was not loaded: its file is torn or gone; the server starts without it"
    )


def test_a_spare_version_whose_workers_die_is_told_and_unregistered(start: Start) -> None:
    server = FakeManagement({"2.0": "rooms-2.0", "1.0": "rooms.mar"}, dying=("1.0",))
    without, (said,) = start(server, DIED.format(version="1.0") * 2, Wanted(BOTH, frozenset(BOTH[1:])), 60)
    assert without == ("rooms=rooms.mar",)
    assert said.startswith(
        "workers of rooms 1.0 die as soon as they start: the process ended without a message"
    )
    assert server.asked == ["unregister 1.0"]


class Stays(FakeManagement):
    """1.0 cannot be unregistered, for that reason."""

    def __init__(self, error: Exception) -> None:
        super().__init__({"2.0": "rooms-2.0", "1.0": "rooms.mar"}, dying=("1.0",))
        self._error = error

    def unregister(self, name: str, version: str) -> None:
        raise self._error


@pytest.mark.parametrize("error", [ServerError("500 no reason"), Unreachable("60 s are over")])
def test_a_spare_version_that_cannot_be_unregistered_is_told_and_ends_no_start(
    start: Start, error: Exception
) -> None:
    log = DIED.format(version="1.0") * 2
    without, (_, said) = start(Stays(error), log, Wanted(BOTH, frozenset(BOTH[1:])), 60)
    assert without == ("rooms=rooms.mar",)
    assert said == (
        f"rooms 1.0 could not be unregistered ({error}): TorchServe goes on trying it until the server is started again"
    )


# --- versions whose threads have the same name: the first 25 characters of NAME_VERSION -----------------------

NEXT, LAST = "2026.11.30-candidate-2", "2026.11.30-candidate-1"
ALIKE_DIED = DIED.format(version="2026.11.30-candidat") * 2


def test_deaths_of_a_spare_version_are_not_those_of_the_default_that_is_ready(start: Start) -> None:
    server = FakeManagement({NEXT: "rooms-2.0", LAST: "rooms.mar"}, dying=(LAST,))
    without, (said,) = start(server, ALIKE_DIED, Wanted(BOTH, frozenset(BOTH[1:])), 60)
    assert without == ("rooms=rooms.mar",)
    assert said.startswith(f"workers of rooms {LAST} die as soon as they start: ")
    assert server.asked == [f"unregister {LAST}"]


class Alike(FakeManagement):
    """Neither is READY. When the spare one is gone the default gets there, or that is written to the log."""

    def __init__(self, log: Path | None) -> None:
        super().__init__({NEXT: "rooms-2.0", LAST: "rooms.mar"}, dying=(NEXT, LAST))
        self._log = log

    def unregister(self, name: str, version: str) -> None:
        super().unregister(name, version)
        if self._log is None:
            self.dying = ()
        else:
            self._log.write_text(ALIKE_DIED * 2)


def test_deaths_are_charged_to_the_spare_version_while_the_default_loads(start: Start) -> None:
    server = Alike(None)
    without, _ = start(server, ALIKE_DIED, Wanted(BOTH, frozenset(BOTH[1:])), 60)
    assert without == ("rooms=rooms.mar",)
    assert server.asked == [f"unregister {LAST}"]


def test_deaths_that_go_on_without_the_spare_version_are_the_defaults(start: Start, tmp_path: Path) -> None:
    server = Alike(tmp_path / "run" / "logs" / "ts_log.log")
    with pytest.raises(ServerError, match=rf"^workers of rooms {NEXT} die as soon as they start: "):
        start(server, ALIKE_DIED, Wanted(BOTH, frozenset(BOTH[1:])), 60)
    assert server.asked == [f"unregister {LAST}"]


def test_workers_of_the_default_that_die_end_the_start(start: Start) -> None:
    server = FakeManagement({"2.0": "rooms-2.0", "1.0": "rooms.mar"}, dying=("2.0",))
    with pytest.raises(ServerError, match=r"^workers of rooms 2\.0 die as soon as they start: "):
        start(server, DIED.format(version="2.0") * 2, Wanted(BOTH, frozenset(BOTH[1:])), 60)


def test_when_the_time_is_over_a_spare_version_is_given_up(start: Start) -> None:
    server = FakeManagement({"2.0": "rooms-2.0", "1.0": "rooms.mar"}, dying=("1.0",))
    without, (said,) = start(server, "", Wanted(BOTH, frozenset(BOTH[1:])), 0)
    assert without == ("rooms=rooms.mar",)
    assert said.startswith("not ready after 0 s: no worker of rooms 1.0 is READY")
    assert server.asked == ["unregister 1.0"]


def test_when_the_time_is_over_a_needed_version_is_missed(start: Start) -> None:
    server = FakeManagement({"2.0": "rooms-2.0", "1.0": "rooms.mar"}, dying=("1.0",))
    with pytest.raises(
        ServerError, match=r"^not ready after 0 s: no worker of rooms 1\.0 .*--ready-timeout-s"
    ):
        start(server, "", Wanted(BOTH), 0)
