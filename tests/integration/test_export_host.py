"""What a host does to an export: a GPU that torch sees and cannot use, a disk that gets full."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import build, variants
from segserve.engines.torchscript import TorchScriptEngine
from segserve.errors import EngineError
from segserve.package import check_package
from segserve.spec import PARITY_FILE, SPEC_FILE, ModelSpec

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("fits", [0, 1])
def test_a_gpu_that_cannot_compute_costs_no_package_that_does_without_it(
    tiny_build: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fits: int,
) -> None:
    """It fails the first call, or the first batch of two: model.pt was not asked for."""
    answer = TorchScriptEngine.__call__

    def fails(engine: TorchScriptEngine, images_nhwc: Any) -> np.ndarray[Any, Any]:
        if len(images_nhwc) > fits:
            raise RuntimeError(NO_KERNEL)
        return answer(engine, images_nhwc)

    monkeypatch.setattr(TorchScriptEngine, "__call__", fails)
    build.main(build.BuildConfig(tiny_build / "tiny.safetensors", tmp_path, as_json=True))
    printed = json.loads(capsys.readouterr().out)
    assert (printed["passed"], list(printed["left_out"])) == (True, ["torchscript"])
    assert NO_KERNEL in printed["left_out"]["torchscript"]
    assert list(printed["parity"]) == list(printed["num_bytes"]) == ["onnx"]
    spec = ModelSpec.load(tmp_path / SPEC_FILE)
    assert [artefact.name for artefact in spec.artefacts] == ["onnx"]
    assert check_package(tmp_path / "rooms.mar").engine == "onnx"
    report = json.loads((tmp_path / PARITY_FILE).read_text())
    assert [entry["name"] for entry in report["artefacts"]] == ["onnx"]


@pytest.mark.parametrize("asked", ["onnx", "auto", "torchscript"])
def test_a_gpu_that_cannot_load_it_leaves_model_pt_out_unless_it_was_asked_for(
    tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def write(file: str, source: variants.Source, folder: Path, *rest: Any) -> str:
        (folder / file).write_bytes(b"a model")
        return ""

    def full(self: TorchScriptEngine, *arguments: Any) -> None:
        raise EngineError("CUDA out of memory")

    monkeypatch.setattr(build, "write_file", write)
    monkeypatch.setattr(TorchScriptEngine, "__init__", full)
    config = build.BuildConfig(tiny_build / "tiny.safetensors", tmp_path, engine=asked)
    made = [variant for variant in variants.VARIANTS if variant.name in variants.NEUTRAL]
    left_out: dict[str, str] = {}
    spec, _ = build.export(config, build.read_inputs(config), made, left_out, lambda step: None)
    expected = {} if asked == "torchscript" else {"torchscript": "torchscript: CUDA out of memory"}
    assert left_out == expected
    assert [artefact.name for artefact in spec.artefacts] == [
        n for n in variants.NEUTRAL if n not in expected
    ]


def test_a_full_disk_ends_the_export_with_a_word(repo_root: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it; torch's own writer would end the process, core dumped."""
    program = """
import resource, sys
from pathlib import Path
import torch
from export.served_net import ServedNet
from export.to_torchscript import to_torchscript
from segserve.labels import ROOM_CLASSES
from training import pspnet
net = pspnet.build("pspnet_lite0", len(ROOM_CLASSES))
served = ServedNet(net, *pspnet.normalisation("pspnet_lite0")).eval()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    to_torchscript(served, Path(sys.argv[1]))
except OSError as error:
    sys.exit(f"error: {error}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.pt")],
        cwd=repo_root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (1, "error: [Errno 27] File too large")
