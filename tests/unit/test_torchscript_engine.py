"""TorchScript: what comes out of a file, and which GPU it goes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segserve import cpu
from segserve.engines import torchscript
from segserve.engines.torchscript import TorchScriptEngine
from segserve.errors import EngineError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


class Doubled(nn.Module):
    def forward(self, images_nhwc: Tensor) -> Tensor:
        return (2 * images_nhwc.permute(0, 3, 1, 2)[:, :, ::2, ::2]).to(torch.bfloat16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    traced = torch.jit.trace(Doubled(), torch.zeros(1, 4, 4, 3, dtype=torch.uint8))  # type: ignore[no-untyped-call]
    traced.save(str(tmp_path / "model.pt"))
    return tmp_path / "model.pt"


def test_a_batch_of_bytes_becomes_float32_logits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "has_bf16", lambda: True)
    images = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3) % 100
    logits = TorchScriptEngine(path, 1, "bf16")(images)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, 2 * images.transpose(0, 3, 1, 2)[:, :, ::2, ::2])


def test_each_worker_has_the_gpu_that_it_was_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(file: str, map_location: str) -> nn.Module:
        asked.append((file, map_location))
        return nn.Identity()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
    monkeypatch.setattr(torch.jit, "load", load)
    engine = torchscript.TorchScriptEngine(path, 1, "fp32", device_id=3)
    assert asked == [(str(path), "cuda:3")]
    assert (engine.device, engine.provider) == ("cuda:3", "GPU 3")


def test_fp16_is_refused_without_a_gpu(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proven on a GPU, it would run on the CPU, slowly and unnoticed; fp32 is at home on both."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="sees no GPU here, and fp16 was proven on one"):
        TorchScriptEngine(path, 1, "fp16")
    assert TorchScriptEngine(path, 1, "fp32").device == "cpu"


def test_bf16_is_refused_by_a_processor_without_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would run there, thirty times slower than float32."""
    monkeypatch.setattr(cpu, "has_bf16", lambda: False)
    monkeypatch.setattr(cpu, "name", lambda: "An old one")
    with pytest.raises(
        EngineError,
        match="An old one does not multiply bf16 in hardware, which torchscript-bf16 was proven with",
    ):
        TorchScriptEngine(path, 1, "bf16")
    assert TorchScriptEngine(path, 1, "fp32").precision == "fp32"


def test_bf16_stays_on_the_processor_that_it_was_proven_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "has_bf16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    engine = TorchScriptEngine(path, 1, "bf16")
    assert (engine.device, engine.provider) == ("cpu", "cpu")


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: out of memory\nmore"), AssertionError("Invalid device id")]
)
def test_a_gpu_that_cannot_be_asked_is_an_error_of_the_engine(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuses(device: int) -> str:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", refuses)
    with pytest.raises(EngineError, match=rf"cannot load .*model\.pt: {str(error).splitlines()[0]}$"):
        TorchScriptEngine(path, 1, "fp32")


def test_a_file_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"nothing")
    with pytest.raises(EngineError, match="cannot load"):
        TorchScriptEngine(tmp_path / "model.pt", 1, "fp32")
