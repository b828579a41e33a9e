"""What the server is started with: config.properties, the options, its environment. Nothing is started."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from pathlib import Path

import pytest
import yaml

from deploy import launch
from deploy.addresses import address, is_loopback
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
