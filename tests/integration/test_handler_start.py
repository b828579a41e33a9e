"""How the handler begins: the settings that it reads, and what keeps it from getting ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from segserve import cpu
from segserve.decode_pool import DECODE_TIMEOUT_S
from segserve.image import MAX_PIXELS
from segserve.segmenter import Segmenter
from segserve.settings import MAX_RESPONSE_BYTES
from tests.integration.calling import Caller


def test_initialize_reads_its_settings(colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded_with(config: dict[str, Any]) -> dict[str, Any]:
        return Caller(colour_segmenter, monkeypatch, config).loaded_with

    monkeypatch.setattr(cpu, "cores", lambda: 12)
    given = {
        "folder": Path("/models/m"),
        "threads": 4,
        "max_pixels": MAX_PIXELS,
        "fallback": False,
        "device_id": 0,
    }
    assert loaded_with({"maxWorkers": 3}) == given
    settings: dict[str, Any] = {"threads": 0, "max_pixels": 1234, "fallback": True}
    assert loaded_with({"maxWorkers": 3, "segserve": settings}) == {
        **given,
        "max_pixels": 1234,
        "fallback": True,
    }
    assert loaded_with({"maxWorkers": 3, "segserve": {"threads": 7}}) == {**given, "threads": 7}
    assert loaded_with({"maxWorkers": 100})["threads"] == 1


def test_a_worker_takes_the_gpu_that_it_was_given(
    colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Caller(colour_segmenter, monkeypatch, {}, gpu_id=3).loaded_with["device_id"] == 3


def test_initialize_warms_up_alone_and_in_a_full_batch(
    colour_segmenter: Segmenter, colour_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Caller(colour_segmenter, monkeypatch, {})
    assert {1, 4} <= set(colour_engine.batch_sizes)


def test_a_model_that_cannot_work_never_gets_ready(
    colour_segmenter: Segmenter, colour_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour_engine.fails = lambda images: len(images) == 4
    with pytest.raises(RuntimeError, match="CUDA"):
        Caller(colour_segmenter, monkeypatch, {})


def test_the_configuration_that_ships_fits_the_code_and_the_server(repo_root: Path) -> None:
    config = yaml.safe_load((repo_root / "handlers" / "model-config.yaml").read_text())
    assert config["minWorkers"] == config["maxWorkers"] == 1
    assert config["maxBatchDelay"] == 1  # ms that a lone request loses; 0 would be TorchServe's 100
    assert config["segserve"] == {
        "threads": 0,
        "fallback": True,
        "max_pixels": MAX_PIXELS,
        "decode_timeout_s": DECODE_TIMEOUT_S,
        "max_response_bytes": MAX_RESPONSE_BYTES,
    }
    assert MAX_PIXELS + 128 <= MAX_RESPONSE_BYTES
    lines = (repo_root / "config.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert int(properties["max_response_size"]) > MAX_RESPONSE_BYTES
