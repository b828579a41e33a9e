"""A setting that does not exist, or is not of its type, is refused by name; nothing passes for a default."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from handlers.segmentation_handler import SegmentationHandler
from segserve import settings
from segserve.errors import UsageError
from segserve.segmenter import Segmenter
from segserve.settings import Settings


def test_what_is_not_said_is_as_always() -> None:
    defaults = Settings(0, False, 64_000_000, 10.0, 64_004_096)
    assert settings.read(None) == settings.read({}) == defaults
    assert settings.read({"threads": 3, "fallback": True}) == dataclasses.replace(
        defaults, threads=3, fallback=True
    )
    assert settings.read({"decode_timeout_s": 2}).decode_timeout_s == 2


def test_what_ships_is_read(repo_root: Path) -> None:
    shipped = yaml.safe_load((repo_root / "handlers" / "model-config.yaml").read_text())["segserve"]
    assert settings.read(shipped) == Settings(fallback=True)
    assert shipped.keys() == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("section", ["max_pixel: 1000000", "Threads: 1", "max-pixels: 1", "1: 2"])
def test_a_setting_that_does_not_exist(section: str) -> None:
    with pytest.raises(UsageError) as raised:
        settings.read(yaml.safe_load(section))
    name = section.partition(":")[0]
    assert str(raised.value) == (
        f"model-config.yaml, section segserve: there is no {name}; "
        "it may have threads, fallback, max_pixels, decode_timeout_s, max_response_bytes"
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('fallback: "false"', "fallback is 'false', expected true or false, without quotes"),
        ("fallback: 1", "fallback is 1, expected true"),
        ("threads: -1", "threads is -1, expected a whole number from 0"),
        ("threads: true", "threads is True, expected a whole number"),
        ("threads:", "threads is None, expected a whole number"),
        (
            "max_pixels: 64e6",
            "max_pixels is '64e6', expected a whole number from 1",
        ),  # YAML takes it for text
        ("max_pixels: 1.5", "max_pixels is 1.5, expected a whole number from 1"),
        ("max_response_bytes: 0", "max_response_bytes is 0, expected a whole number from 1"),
        ("decode_timeout_s: 10s", "decode_timeout_s is '10s', expected a number of seconds above 0"),
        ("decode_timeout_s: .nan", "decode_timeout_s is nan, expected"),
        ("decode_timeout_s: .inf", "decode_timeout_s is inf, expected"),
        ("- threads", r"it is \['threads'\], expected threads, fallback, "),
        ("true", "it is True, expected threads, "),
    ],
)
def test_a_value_of_the_wrong_kind(section: str, message: str) -> None:
    parsed: Any = yaml.safe_load(section)
    with pytest.raises(UsageError, match=f"^model-config.yaml, section segserve: {message}"):
        settings.read(parsed)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError, match=r"threads is '2', .*; max_pixels is 0, .*"):
        settings.read({"threads": "2", "max_pixels": 0})


def test_the_worker_does_not_start_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Segmenter, "load", None)  # it is not asked for
    config = {"maxWorkers": 1, "segserve": {"max_pixel": 1_000_000}}
    context = SimpleNamespace(system_properties={"model_dir": "/models/m"}, model_yaml_config=config)
    with pytest.raises(UsageError, match="there is no max_pixel; it may have threads, fallback, max_pixels"):
        SegmentationHandler().initialize(context)
