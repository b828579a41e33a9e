"""Why a worker died, read from TorchServe's logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.ready import StartLogs, last_exception

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
