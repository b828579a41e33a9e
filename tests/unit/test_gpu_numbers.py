"""Which board is which of CUDA's GPUs, with an NVML and a torch that are played: no GPU is here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.sampling import Gpus, power_w

BOARDS = ("GPU-aaaa", "GPU-bbbb", "GPU-cccc")


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three boards, of 100, 101 and 102 W; a handle is the board's number."""
    played = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(BOARDS),
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUUID=lambda handle: BOARDS[handle],
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=50),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=1 << 30),
        nvmlDeviceGetPowerUsage=lambda handle: 100_000 + 1000 * handle,
    )
    monkeypatch.setitem(sys.modules, "pynvml", played)


def play_cuda(monkeypatch: pytest.MonkeyPatch, *uuids: str) -> None:
    """What torch sees, in CUDA's order."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(uuids))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=uuids[number])
    )


def test_power_is_that_of_the_board_which_cuda_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with CUDA_VISIBLE_DEVICES=2,0."""
    play_cuda(monkeypatch, "cccc", "aaaa")
    gpus = Gpus()
    seen = gpus.sample()
    assert [(one["gpu"], one["cuda"]) for one in seen] == [(0, 1), (1, None), (2, 0)]
    powers = [power_w([{"t": 5.0, "gpus": seen}], number, 0.0, 9.0) for number in (0, 1, 2)]
    assert powers == [102.0, 100.0, None]
    assert gpus.missing == ""


def test_it_is_told_where_torch_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    play_cuda(monkeypatch)
    gpus = Gpus()
    assert [one["cuda"] for one in gpus.sample()] == [None, None, None]
    assert "torch sees no GPU here" in gpus.missing


def test_it_is_told_where_cuda_sees_parts_of_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    """In MIG mode: what CUDA numbers has another UUID than the board."""
    play_cuda(monkeypatch, "dddd")
    gpus = Gpus()
    assert [one["cuda"] for one in gpus.sample()] == [None, None, None]
    assert "CUDA's are no whole boards, as in MIG mode" in gpus.missing
