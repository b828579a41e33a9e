"""The server's settings, its run folder, its processes and the reasons read from its logs; nothing is started."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from deploy import launch, processes, run_folder, server
from deploy.addresses import address, is_loopback
from deploy.client import message
from deploy.options import Start
from deploy.ready import StartLogs, last_exception
from deploy.run_folder import Running
from segserve.errors import ServerError, UsageError


@pytest.fixture(scope="module")
def properties(repo_root: Path) -> dict[str, str]:
    return launch.read_properties(repo_root / "config.properties")


# --- config.properties --------------------------------------------------------------------------------------


def test_every_setting_is_one_that_torchserve_knows(properties: dict[str, str]) -> None:
    torchserve = importlib.util.find_spec("ts")
    assert torchserve is not None
    assert torchserve.origin is not None
    jar = Path(torchserve.origin).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as file:
        code = file.read("org/pytorch/serve/util/ConfigManager.class")
    unknown = [key for key in properties if key.encode() not in code]
    assert unknown == []


def test_the_largest_mask_fits_an_answer_and_the_handler_stops_before_the_server(
    properties: dict[str, str], repo_root: Path
) -> None:
    handler = yaml.safe_load((repo_root / "handlers" / "model-config.yaml").read_text())["segserve"]
    npy_header_bytes = 128
    assert handler["max_pixels"] + npy_header_bytes <= handler["max_response_bytes"]
    assert handler["max_response_bytes"] <= int(properties["max_response_size"])


def test_a_worker_that_cannot_load_is_tried_for_days(repo_root: Path) -> None:
    settings = yaml.safe_load((repo_root / "handlers" / "model-config.yaml").read_text())
    days = settings["maxRetryTimeoutInSec"] / 86_400
    assert days > 20
    assert (
        settings["maxRetryTimeoutInSec"] * 1000 < 2**31
    )  # TorchServe's int of ms; beyond it would never retry


def test_nothing_in_the_configuration_listens_beyond_loopback(properties: dict[str, str]) -> None:
    for key in ("inference_address", "metrics_address"):
        host, _ = address(properties, key, None, None)
        assert is_loopback(host)
    assert "management_address" not in properties  # the socket's path is only known at start
    assert properties["allowed_urls"] == "none"
    assert "clientTimeoutInMills" not in properties


def test_effective_configuration_replaces_values_and_survives_odd_paths(tmp_path: Path) -> None:
    file = tmp_path / "config.properties"
    file.write_text("# why\nmodel_store=nowhere\njob_queue_size=7\n")
    text = launch.effective_config(file, {"model_store": "/data/größe \\ x"})
    assert text.isascii()  # Java reads it as Latin-1, with escapes
    assert "nowhere" not in text
    assert r"model_store=/data/gr\u00f6\u00dfe \\ x" in text.splitlines()
    assert "job_queue_size=7" in text.splitlines()


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("file:///srv/a.b/store/rooms.mar", True),
        ("file:///srv/aXb/store/rooms.mar", False),  # the dot is a dot
        ("file:///srv/a.b/store2/rooms.mar", False),
        ("file:///etc/passwd", False),
        ("http://127.0.0.1/rooms.mar", False),
        ("https://srv/a.b/store/rooms.mar", False),
    ],
)
def test_models_come_only_from_the_store(url: str, allowed: bool) -> None:
    assert bool(re.fullmatch(launch.store_pattern(Path("/srv/a.b/store")), url)) is allowed


def test_a_store_that_torchserve_would_take_for_two_is_refused() -> None:
    with pytest.raises(UsageError, match="comma"):
        launch.store_pattern(Path("/srv/a,b"))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False),
     ("localhost.example.org", False), ("some-host", False)],
)  # fmt: skip
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_address_comes_from_the_options_then_from_the_configuration() -> None:
    properties = {"inference_address": "http://127.0.0.1:8080"}
    assert address(properties, "inference_address", None, None) == ("127.0.0.1", 8080)
    assert address(properties, "inference_address", "0.0.0.0", 81) == ("0.0.0.0", 81)
    with pytest.raises(UsageError, match="IPv4"):
        address(properties, "inference_address", "::1", None)
    with pytest.raises(UsageError, match="metrics_address="):
        address(properties, "metrics_address", None, None)


def test_models_must_be_archives_of_the_store(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rooms.mar", "w") as archive:
        archive.writestr("x", "")
    (tmp_path / "torn.mar").write_bytes(b"PK\x03\x04 and no more")
    launch.require_models(tmp_path, ("rooms=rooms.mar",))
    for models, reason in (
        ("rooms=floors.mar", r"has no floors.mar, it has rooms.mar, torn.mar"),
        ("rooms=../rooms.mar", "has no"),
        ("rooms.mar", "expected NAME=FILE"),
        ("rooms=torn.mar", "torn"),
    ):
        with pytest.raises(UsageError, match=reason):
            launch.require_models(tmp_path, (models,))


def test_the_environment_of_the_server_cannot_shadow_a_models_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/repository")
    monkeypatch.setenv("TS_CONFIG_FILE", "/other.properties")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    seen = launch.environment(tmp_path / "tmp", tmp_path / "logs")
    assert "PYTHONPATH" not in seen
    assert "TS_CONFIG_FILE" not in seen
    assert seen["OMP_NUM_THREADS"] == "3"  # workers inherit it
    assert seen["TMPDIR"] == seen["TEMP"] == str(tmp_path / "tmp")


# --- run folder ---------------------------------------------------------------------------------------------


def running(tmp_path: Path, pid: int = 1, identity: str = "boot 1", auth: str = "none") -> Running:
    return Running(
        pid, identity, "http://127.0.0.1:1", "http://127.0.0.1:2", str(tmp_path / "management.sock"), ("rooms",),
        auth, str(tmp_path), str(tmp_path / "tmp"), str(tmp_path / "logs"),
    )  # fmt: skip


def test_the_run_folder_is_private_even_if_it_was_not(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    assert stat.S_IMODE(run_folder.create(folder).stat().st_mode) == 0o700


def test_a_folder_of_somebody_elses_is_refused_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    (folder / "tmp").mkdir(parents=True)
    folder.chmod(0o755)
    with pytest.raises(UsageError, match=r"home is not empty and is no run folder .*--run-dir"):
        run_folder.create(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert (folder / "tmp").is_dir()


def test_a_run_folder_is_used_again(tmp_path: Path) -> None:
    folder = run_folder.create(tmp_path / "run")
    with run_folder.exclusive(folder):
        (folder / "logs").mkdir()
    assert run_folder.create(folder) == folder


def test_sockets_go_where_their_paths_are_short_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_folder.socket_dir(Path("/srv/run")) == Path("/srv/run")
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        short = run_folder.socket_dir(tmp_path / ("d" * 100))
        assert short.parent == Path(runtime)
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(short / "management.sock"))


@pytest.mark.parametrize("runtime", ["", "not/absolute", "/no/such/folder", "too long"])
def test_without_a_usable_runtime_folder_sockets_go_to_tmp(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("d" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long) if runtime == "too long" else runtime)
    short = run_folder.socket_dir(long)
    short.rmdir()
    assert short.parent == Path("/tmp")


def test_a_launch_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / ("d" * 100)
    run_dir.mkdir()
    config = tmp_path / "config.properties"
    config.write_text("job_queue_size=many\n")
    plan = launch.Plan(run_dir, config, tmp_path, ("a=a.mar",), ("127.0.0.1", 1), ("127.0.0.1", 2), "none")
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        with pytest.raises(UsageError, match="must be numbers"):
            launch.launch(plan)
        assert list(Path(runtime).iterdir()) == []


def test_state_survives_the_file_and_a_clean_stop_removes_it(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "ts_log.log").write_text("kept")
    state = running(tmp_path)
    assert run_folder.load(tmp_path) is None
    run_folder.save(state)
    assert run_folder.load(tmp_path) == state
    run_folder.clear(state)
    assert run_folder.load(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_torn_state_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / run_folder.STATE_FILE).write_text('{"pid": 1')
    with pytest.raises(ServerError, match=r"server\.json cannot be read"):
        run_folder.load(tmp_path)


def test_alive_means_that_very_process(tmp_path: Path) -> None:
    pid = os.getpid()
    boot, _, start_ticks = processes.identity(pid).partition(" ")
    assert running(tmp_path, pid, f"{boot} {start_ticks}").alive()
    assert not running(
        tmp_path, pid, f"{boot} {int(start_ticks) - 1}"
    ).alive()  # the number was given to another
    assert not running(tmp_path, pid, f"another-boot {start_ticks}").alive()


def test_a_name_with_brackets_and_spaces_does_not_shift_the_fields() -> None:
    rename = "open('/proc/self/comm', 'w').write(') Z 1 (x'); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        boot, _, start_ticks = processes.identity(process.pid).partition(" ")
        assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        own_ticks = int(processes.identity(os.getpid()).split()[1])
        assert int(start_ticks) >= own_ticks
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert processes.identity(process.pid) == ""  # a zombie has ended
    assert processes.identity(process.pid) == ""


def test_tokens_are_read_only_where_they_are_on(tmp_path: Path) -> None:
    (tmp_path / run_folder.KEY_FILE).write_text(json.dumps({"inference": {"key": "abc"}}))
    assert running(tmp_path, auth="none").token("inference") is None
    assert running(tmp_path, auth="token").token("inference") == "abc"
    with pytest.raises(UsageError, match="no management token"):
        running(tmp_path, auth="token").token("management")


# --- processes and ports ------------------------------------------------------------------------------------


def test_a_taken_port_names_its_holder_and_the_way_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"port {port} on 127\.0\.0\.1 is taken by process {os.getpid()} .*--port"
        ):
            processes.require_free("127.0.0.1", port, "--port")
    processes.require_free("127.0.0.1", port, "--port")


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1:8080"):
        processes.require_free("192.0.2.1", 8080, "--port")


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(300)"
)
LEADER = (
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE);"
    "p.stdout.readline(); print('up', flush=True); p.wait()"
)


@contextlib.contextmanager
def session(tmp_dir: str) -> Iterator[subprocess.Popen[bytes]]:
    """A leader of a session with a child that does not mind SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-c", LEADER, STUBBORN],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": tmp_dir},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert len(processes.session_members(process.pid)) == 2
            yield process
        finally:
            processes.send(processes.session_members(process.pid), signal.SIGKILL)


def test_ending_a_session_reaches_what_outlives_its_leader() -> None:
    with session("/tmp/ours") as leader:
        processes.end_session(leader.pid, timeout_s=10)
        assert processes.session_members(leader.pid) == []
    assert leader.returncode == -signal.SIGTERM


def test_orphans_are_known_by_their_tmpdir_and_others_are_left_alone() -> None:
    with session("/tmp/ours") as leader:
        processes.end_orphans(leader.pid, "/tmp/ours")
        assert len(processes.session_members(leader.pid)) == 2  # its leader lives: that is no orphan
        leader.kill()
        leader.wait(10)
        [orphan] = processes.session_members(leader.pid)
        processes.end_orphans(leader.pid, "/tmp/not-ours")
        assert processes.session_members(leader.pid) == [orphan]
        processes.end_orphans(leader.pid, "/tmp/ours")
        assert processes.session_members(leader.pid) == []


# --- reasons ------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (415, b'{"error": {"type": "ImageFormatNotServed", "message": "an ICO"}}',
         "415 Unsupported Media Type: an ICO"),
        (404, b'{"code": 404, "type": "ModelNotFoundException", "message": "Model not found: x"}',
         "404 Not Found: Model not found: x"),
        (413, b"", "413 Request Entity Too Large: more bytes than the server takes"),
        (502, b"<html>proxy</html>", "502 Bad Gateway: <html>proxy</html>"),
        (503, b"", "503 Service Unavailable: no reason given"),
        (400, b'{"message": "Token Authorization failed."}', "--token-file"),
    ],
)  # fmt: skip
def test_what_the_client_says_of_an_answer_that_is_not_200(status: int, body: bytes, said: str) -> None:
    assert said in message(httpx.Response(status, content=body))


def test_inference_and_metrics_need_a_port_each(tmp_path: Path) -> None:
    options = Start(tmp_path, port=8090, metrics_port=8090, run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="both 8090"):
        server._launch(options)  # start() would take over the signals of the test runner
    assert not (tmp_path / "run").exists()
