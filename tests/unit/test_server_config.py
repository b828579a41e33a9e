"""What the server is started with: config.properties, the options, its environment. Nothing is started."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from deploy import launch, run_folder
from deploy.addresses import address, is_loopback
from deploy.served import Wanted
from segserve.errors import UsageError


@pytest.fixture(scope="module")
def properties(repo_root: Path) -> dict[str, str]:
    return launch.read_properties(repo_root / "config.properties")


def test_every_setting_is_one_that_torchserve_knows(properties: dict[str, str]) -> None:
    torchserve = importlib.util.find_spec("ts")
    assert torchserve is not None
    assert torchserve.origin is not None
    jar = Path(torchserve.origin).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as file:
        code = file.read("org/pytorch/serve/util/ConfigManager.class")
    unknown = [key for key in (*properties, *launch.BODIES_AS_SENT) if key.encode() not in code]
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


def test_a_start_does_without_spare_versions_that_are_torn_or_gone(tmp_path: Path) -> None:
    for name in ("rooms-2.0", "rooms-0.9"):
        (tmp_path / name).mkdir()
    (tmp_path / "torn.mar").write_bytes(b"PK\x03\x04 and no more")
    models = ("rooms=rooms-2.0", "rooms=torn.mar", "rooms=gone.mar", "rooms=rooms-0.9")
    assert launch.loadable(tmp_path, Wanted(models, frozenset(models[1:]))) == (models[0], models[3])
    with pytest.raises(UsageError, match=r"has no gone\.mar"):
        launch.loadable(tmp_path, Wanted(models, frozenset(models[1:2])))


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


RECEIVE = """
import io, struct
from ts.protocol.otf_message_handler import _retrieve_input_data

class Connection:
    recv = io.BytesIO(
        b"".join(struct.pack("!i", len(p)) + p for p in (b"body", b"application/json", b'{"a": [1]}'))
    ).read

print(_retrieve_input_data(Connection)["value"])
"""
"""What a worker makes of such a body."""


def test_a_json_body_reaches_the_handler_as_bytes_where_the_configuration_is_used_alone(
    properties: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", properties["decode_input_request"])  # as Java sets it
    done = subprocess.run([sys.executable, "-c", RECEIVE], capture_output=True, text=True, check=True)
    assert done.stdout == "bytearray(b'{\"a\": [1]}')\n"


@pytest.mark.parametrize("instead", ["", "decode_input_request=true"])
def test_a_json_body_reaches_the_handler_as_bytes_whatever_the_configuration_says(
    instead: str, tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe would parse it, without a limit, where the worker receives it."""
    monkeypatch.setattr(launch, "_spawn", lambda *_: Java())
    config = tmp_path / "mine.properties"
    ours = (repo_root / "config.properties").read_text()
    assert "\ndecode_input_request=false\n" in ours
    config.write_text(ours.replace("decode_input_request=false", instead))
    run_dir = run_folder.create(tmp_path / "run")
    launch.launch(launch.Plan(run_dir, config, tmp_path, (), ("127.0.0.1", 1), ("127.0.0.1", 2), "none"))
    started_with = launch.read_properties(run_dir / "config.properties")
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", started_with["decode_input_request"])  # as Java sets it
    done = subprocess.run([sys.executable, "-c", RECEIVE], capture_output=True, text=True, check=True)
    assert done.stdout == "bytearray(b'{\"a\": [1]}')\n"


class Java(subprocess.Popen[bytes]):
    """Started, as far as anybody asks."""

    pid = 1

    def __init__(self) -> None: ...

    def __del__(self) -> None: ...


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
