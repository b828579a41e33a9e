"""Why a worker died, read from TorchServe's logs; and which versions a start waits for, or does without."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.management import Management
from deploy.ready import StartLogs, last_exception, wait_ready
from deploy.served import Wanted
from segserve.errors import ServerError
from tests.fake_management import FakeManagement, running_in

TRACEBACK_OF_AN_IMPORT_ERROR = """\
Backend worker process died.
Traceback (most recent call last):
  File "/t/ts/model_loader.py", line 108, in load
    module, function_name = self._load_handler_file(handler)
  File "/tmp/models/80fe/handler.py", line 3, in <module>
    import no_such_library
ModuleNotFoundError: No module named 'no_such_library'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/t/ts/model_loader.py", line 110, in load
ModuleNotFoundError: No module named 'ts.torch_handler.handler'
"""
LOGGED = "".join(
    f"2026-01-01T00:00:00,001 [INFO ] W-9000-rooms_1.0-stdout - {line}\n"
    for line in TRACEBACK_OF_AN_IMPORT_ERROR.splitlines()
)


def test_the_handlers_own_import_error_is_told_not_torchserves(tmp_path: Path) -> None:
    logs = StartLogs(tmp_path)
    (tmp_path / "model_log.log").write_text(LOGGED)
    assert (
        logs.worker_reason() == "ModuleNotFoundError: No module named 'no_such_library' (handler.py, line 3)"
    )


def test_only_what_this_start_wrote_counts(tmp_path: Path) -> None:
    died = "x [INFO ] W-9000 WorkerThread - Retry worker: 9000 in 1 seconds.\n"
    log = tmp_path / "ts_log.log"
    log.write_text(died * 5)
    (tmp_path / "model_log.log").write_text(LOGGED)
    logs = StartLogs(tmp_path)
    assert logs.deaths() == 0
    assert "without a message" in logs.worker_reason()
    log.write_text(died * 5 + died)
    assert logs.deaths() == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ""),
        ("just talk\nError handling is on\n", ""),
        ('  File "/m/h.py", line 2, in initialize\nValueError: weights do not fit\n',
         "ValueError: weights do not fit (h.py, line 2)"),
        ('  File "/m/s.py", line 9, in load\nsegserve.errors.SpecError: torn\nRuntimeError: 500 - Unknown exception\n',
         "segserve.errors.SpecError: torn (s.py, line 9)"),
    ],
)  # fmt: skip
def test_last_exception(text: str, reason: str) -> None:
    assert last_exception(text) == reason


# --- which versions must be there ---------------------------------------------------------------------------

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
