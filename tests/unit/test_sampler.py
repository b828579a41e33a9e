"""A driver that does not tell everything: the rest is known, and the thread goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import sampling
from benchmarks.sampling import Sampler
from deploy.processes import wait_until


class NVMLError(Exception):
    """As pynvml has it."""


def refuse(_: object) -> None:
    raise NVMLError("Not Supported")


@pytest.fixture
def in_mig_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boards that tell memory, and the second one power, too."""

    def power_mw(handle: str) -> int:
        if handle == "GPU-0":
            refuse(handle)
        return 250_000

    nvml = SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex="GPU-{}".format, nvmlDeviceGetUUID=str, nvmlDeviceGetUtilizationRates=refuse,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=2**30), nvmlDeviceGetPowerUsage=power_mw,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(sampling, "cuda_numbers", lambda: {"0": 0, "1": 1})
    monkeypatch.setattr(sampling, "EVERY_S", 0.01)


@pytest.mark.usefixtures("in_mig_mode")
def test_what_a_driver_does_not_tell_is_none_and_said_once(tmp_path: Path) -> None:
    with Sampler(tmp_path / "samples.jsonl", None) as sampler:
        assert wait_until(lambda: len(sampler.samples) >= 3, 30)
    seen = sampler.samples[-1]["gpus"]
    assert [(one["busy"], one["memory_mib"], one["power_w"]) for one in seen] == [
        (None, 1024, None),
        (None, 1024, 250.0),
    ]
    assert sampler.missing[1:] == [
        "utilisation of GPU 0: the driver does not tell it (Not Supported)",
        "power of GPU 0: the driver does not tell it (Not Supported)",
        "utilisation of GPU 1: the driver does not tell it (Not Supported)",
    ]


@pytest.mark.usefixtures("in_mig_mode")
def test_boards_that_cannot_be_told_apart_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetUUID", refuse)
    with Sampler(tmp_path / "samples.jsonl", None) as sampler:
        assert wait_until(lambda: len(sampler.samples) >= 2, 30)
    assert sampler.samples[-1]["gpus"] == []
    assert sampler.missing[-1].endswith("no NVIDIA driver answers here (Not Supported)")
