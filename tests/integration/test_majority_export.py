"""A majority is part of what is exported: ONNX Runtime, OpenVINO and TorchScript answer with it at any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray

from export.fold import fold
from export.served_net import ServedNet
from export.to_onnx import to_onnx
from export.to_torchscript import to_torchscript
from tests import tiny_pspnet
from training import pspnet
from training.decision import Majority

MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
LABELS, NUM_CLASSES = (1, 4), 6
Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def net() -> Iterator[pspnet.PSPNet]:
    torch.manual_seed(5)
    with pytest.MonkeyPatch.context() as patch:
        tiny_pspnet.register(patch)
        net = pspnet.build(tiny_pspnet.PRESET, NUM_CLASSES).eval()
        next(net.head[-1].parameters()).data *= 20  # so that classes differ from pixel to pixel
        net.decide = Majority(LABELS, NUM_CLASSES)
        yield net


@pytest.fixture(scope="module")
def onnx_file(net: pspnet.PSPNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("majority") / "model.onnx"
    to_onnx(ServedNet(fold(net), MEAN, STD).eval(), file)
    return file


def onnx(file: Path, net: pspnet.PSPNet) -> Answer:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"images_nhwc": images})[0])


def openvino_(file: Path, net: pspnet.PSPNet) -> Answer:
    core = openvino.Core()
    model = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.asarray(model(images)[0])


def torchscript(file: Path, net: pspnet.PSPNet) -> Answer:
    to_torchscript(ServedNet(fold(net), MEAN, STD).eval(), file.with_suffix(".pt"))
    model = torch.jit.load(file.with_suffix(".pt"))  # type: ignore[no-untyped-call]
    return lambda images: model(torch.from_numpy(images)).detach().numpy()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("load", [onnx, openvino_, torchscript])
def test_exports_answer_with_it(net: pspnet.PSPNet, onnx_file: Path, load: Callable[..., Answer]) -> None:
    answer = load(onnx_file, net)
    rng = np.random.default_rng(0)
    for count, height, width in ((1, 64, 96), (3, 75, 41)):
        images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
        with torch.inference_mode():
            expected = ServedNet(net, MEAN, STD)(torch.from_numpy(images))
            plain = net.head(
                net.pyramid(net.backbone((torch.from_numpy(images).permute(0, 3, 1, 2) - 127.0) / 128)[1])
            )
        got = answer(images)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-3, atol=2e-3)
        assert (expected - plain).abs().max() > 0.1  # the rule is about something here


def test_in_bf16_the_rule_is_computed_in_float32(net: pspnet.PSPNet) -> None:
    images = torch.randint(
        0, 256, (1, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode():
        logits = ServedNet(fold(net), MEAN, STD, torch.bfloat16).eval()(images)
        assert logits.dtype == torch.float32
        expected = ServedNet(net.float(), MEAN, STD)(images)
    agree = (logits.argmax(1) == expected.argmax(1)).float().mean()
    assert agree > 0.9
