"""How the peers are packaged, started and asked, as far as that needs none of their packages."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import servers
from benchmarks.peers.catalogue import APPS, PEERS, Model, Settings, archive, form, model_config, raw
from benchmarks.ports import free_ports
from deploy.processes import exists, wait_until
from segserve.errors import ServerError
from tests.specs import make_spec

REQUIREMENTS = servers.REPOSITORY / "benchmarks/peers/requirements.txt"
# A server whose child has left its session and ignores SIGTERM, as it does itself: the worst that a peer could be.
STUBBORN = """
import json, os, signal, socket, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", ignores], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
listening = socket.create_server(("127.0.0.1", json.loads(os.environ["PEER_SETTINGS"])["port"]))
print(child.pid, flush=True)
while True:
    listening.accept()
"""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    return Model(folder, make_spec(), tmp_path / "rooms.mar")


def test_settings_are_written_as_they_are_read() -> None:
    assert Settings.parse("2x1x4") == Settings(workers=2, threads=1, batch=4)
    assert str(Settings.parse("16x1x8")) == "16x1x8"
    for text in ("2x1", "0x1x4", "2x1x4x", "axbxc", ""):
        with pytest.raises(ValueError, match="WORKERSxTHREADSxBATCH"):
            Settings.parse(text)


def test_a_form_carries_the_photo_byte_for_byte() -> None:
    jpeg = bytes(range(256)) * 3 + b"\r\n--\r\n"
    head, _, body = form("/predict", "image")("http://127.0.0.1:9", jpeg).partition(b"\r\n\r\n")
    request_line, _, headers = head.partition(b"\r\n")
    assert request_line == b"POST /predict HTTP/1.1"
    assert f"Content-Length: {len(body)}".encode() in headers
    parts: Any = message_from_bytes(headers + b"\r\n\r\n" + body).get_payload()
    (part,) = parts
    assert part.get_param("name", header="content-disposition") == "image"
    assert part.get_payload(decode=True) == jpeg


def test_raw_requests_are_the_photo() -> None:
    head, _, body = raw("/predictions/peer")("http://127.0.0.1:9", b"photo").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /predictions/peer HTTP/1.1\r\nHost: 127.0.0.1:9\r\n")
    assert body == b"photo"


def test_the_torchserve_peer_is_packaged_with_what_its_handler_imports(model: Model, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    archive(model, Settings(2, 1, 4), store, tmp_path / "staged")
    with zipfile.ZipFile(store / "peer.mar") as mar:
        names = set(mar.namelist())
        assert mar.read("model.pt") == b"weights"
        handler = mar.read("torchserve_handler.py").decode()
    assert "benchmarks/peers/apps/usual.py" in names
    for imported in re.findall(r"^from (benchmarks[\w.]*) import (\w+)", handler, re.MULTILINE):
        assert "/".join(imported).replace(".", "/") + ".py" in names
    assert not [name for name in names if "segserve" in name]


def test_the_settings_reach_torchserve_and_its_handler(model: Model) -> None:
    config = model_config(model, Settings(2, 3, 4))
    assert (config["minWorkers"], config["maxWorkers"], config["batchSize"]) == (2, 2, 4)
    assert config["peer"] == {"threads": 3, "height": 64, "width": 64, "align_corners": False}


def test_a_peers_process_finds_its_settings_and_may_report_to_nobody(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    seen = servers.environment(model.settings(Settings(2, 1, 4), 4321), Path("/peers/bin/python"), tmp_path)
    settings = json.loads(seen["PEER_SETTINGS"])
    assert (settings["workers"], settings["threads"], settings["batch"], settings["port"]) == (2, 1, 4, 4321)
    assert settings["model"] == str((model.folder / "model.onnx").resolve())
    assert seen["PATH"].startswith("/peers/bin" + os.pathsep)
    assert (seen["RAY_USAGE_STATS_ENABLED"], seen["BENTOML_DO_NOT_TRACK"]) == ("0", "True")
    assert not {"HTTPS_PROXY", "PYTHONHOME"} & set(seen)


def test_every_process_of_a_peer_ends_even_if_it_will_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "STOP_TIMEOUT_S", 0.1)
    (port,) = free_ports(1)
    settings = {"port": port, "threads": 1}
    arguments = [sys.executable, "-c", STUBBORN]
    with servers.process(arguments, settings, Path(sys.executable), tmp_path / "work") as server:
        assert wait_until(lambda: bool(server.log.read_text().strip()), 60)
        child = int(server.log.read_text())
        assert {process.pid for process in server.family()} >= {server.pid, child}
        server.sample_memory()
        assert server.peak_mib > 1
        assert os.getsid(child) != server.pid
    assert not exists(server.pid)
    assert not exists(child)


def test_a_peer_ends_with_who_is_told_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_TIMEOUT_S", 0.1)
    settings = {"port": free_ports(1)[0], "threads": 1}
    arguments, started = [sys.executable, "-c", STUBBORN], list[int]()

    def measure() -> None:
        with servers.process(arguments, settings, Path(sys.executable), tmp_path / "work") as server:
            started.append(server.pid)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert not exists(started[0])


def test_a_peer_that_does_not_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with (
        pytest.raises(ServerError, match=r"code 1(.|\n)*no such model"),
        servers.process(arguments, {"port": 1, "threads": 1}, Path(sys.executable), tmp_path / "work"),
    ):
        pass


def test_what_a_peer_is_started_with_exists() -> None:
    apps = servers.REPOSITORY / APPS.replace(".", "/")
    assert set(PEERS) == {"torchserve", "litserve", "ray", "bentoml"}
    for name in ("litserve", "ray", "bentoml"):
        compile((apps / f"{name}_app.py").read_text(), name, "exec")
    assert "import segserve" not in "".join(path.read_text() for path in apps.glob("*.py"))
    assert "from segserve" not in "".join(path.read_text() for path in apps.glob("*.py"))


def test_the_peers_environment_is_pinned_and_compares_servers_not_engines() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", REQUIREMENTS.read_text(), re.MULTILINE))
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert len(pins) == len(lines)
    assert set(pins) >= {"bentoml", "litserve", "ray", "onnxruntime", "torch", "numpy", "pillow"}
    ours = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (servers.REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    )
    assert {name: ours[name] for name in ("torch", "onnxruntime", "numpy", "pillow")}.items() <= pins.items()
