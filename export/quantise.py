"""model.onnx -> model.int8.onnx: post-training quantisation with the user's own images, no layer more than it bears.

NNCF calibrates and quantises every convolution and addition: symmetric, so that one file runs in ONNX Runtime and in
OpenVINO. Where that changes too many labels, the layers are ranked by how many labels change when only that layer is
quantised, and the worst go back to float until enough labels agree.

    quantise(Path("build/model.onnx"), Path("build/model.int8.onnx"), [photos_nhwc, rooms_nhwc], print)
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nncf
import numpy as np
import onnx
import onnxruntime
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from export.served_net import INPUT_NAME
from segserve import cpu

MIN_AGREEMENT = 0.994
"""Of the labels at network stride on held-out images of each kind: a little more than parity asks for at pixels."""

RANKING_IMAGES = 4  # of all kinds together
FLOAT_SHARES = (0.0, 0.06, 0.12, 0.2, 0.3, 0.45, 0.6)
"""Of the layers, kept in float: what is tried, in this order. With more, int8 would not pay."""


def quantise(
    fp32: Path, int8: Path, kinds: Sequence[Sequence[NDArray[np.uint8]]], on_step: Callable[[str], None]
) -> str:
    """Write `int8` and say how many layers stay in float.

    Args: kinds are groups of network inputs, uint8 (1, H, W, 3) each. Of each group every fourth is held out for
    judging, and enough labels must agree in each: many photos must not hide what becomes of a few rooms.

    Raises: nothing of its own; if even the last share does not agree, that model is written and parity will refuse it.
    """
    held_out = [list(images[::4]) for images in kinds]
    calibration = [image for images in kinds for n, image in enumerate(images) if n % 4 or len(images) < 8]
    source = onnx.load(str(fp32))
    expected = [logits_of(source, images) for images in held_out]
    on_step("quantise")
    quantised = _all_layers(source, calibration)
    layers = quantised_layers(quantised)
    ranked: list[str] = []
    for share in FLOAT_SHARES:
        if share and not ranked:
            on_step(f"rank {len(layers)} layers")
            few = [image for images in held_out for image in images[: max(1, RANKING_IMAGES // len(kinds))]]
            ranked = _ranked(source, quantised, layers, few, on_step)
        kept = ranked[: round(share * len(layers))]
        model = keep_float(source, quantised, kept)
        agreement = min(
            _agreement(logits_of(model, images), logits)
            for images, logits in zip(held_out, expected, strict=True)
        )
        on_step(f"{len(kept)} of {len(layers)} layers in float: {100 * agreement:.2f} % agree")
        if agreement >= MIN_AGREEMENT:
            break
    onnx.save_model(model, str(int8))
    onnx.checker.check_model(str(int8))
    return f"{len(layers) - len(kept)} of {len(layers)} layers in int8, the rest in float"


def logits_of(model: ModelProto, images_nhwc: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Float32 (1, num_classes, h, w) for each image."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [session.run(None, {INPUT_NAME: image})[0] for image in images_nhwc]


def quantised_layers(model: ModelProto) -> list[str]:
    """Names of the nodes that compute with int8: every input comes from a DequantizeLinear, or is a bias."""
    producers = {output: node for node in model.graph.node for output in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Add")
        and all(
            name in producers and producers[name].op_type == "DequantizeLinear" for name in node.input[:2]
        )
    ]


def keep_float(source: ModelProto, quantised: ModelProto, layers: Sequence[str]) -> ModelProto:
    """`quantised` with `layers` reading float activations and the weights of `source`."""
    model = ModelProto()
    model.CopyFrom(quantised)
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    weights = {tensor.name: tensor for tensor in source.graph.initializer}
    originals = {node.name: node for node in source.graph.node}
    present = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.name not in layers:
            continue
        for position, name in enumerate(originals[node.name].input):
            if name in weights:
                node.input[position] = f"{name}.float"
                if f"{name}.float" not in present:
                    tensor = graph.initializer.add()
                    tensor.CopyFrom(weights[name])
                    tensor.name = f"{name}.float"
                    present.add(tensor.name)
            else:
                node.input[position] = _before_quantisation(node.input[position], producers)
    _drop_unused(model)
    return model


def _all_layers(source: ModelProto, images_nhwc: Sequence[NDArray[np.uint8]]) -> ModelProto:
    nncf.set_log_level(logging.ERROR)
    # without VNNI, two products of 8 bits overflow the 16 bits they are added in; 7 bits of weights never do
    overflow = OverflowFix.FIRST_LAYER if cpu.has_int8_dot() else OverflowFix.ENABLE
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars; stdout may be JSON
        model: ModelProto = nncf.quantize(
            source,
            nncf.Dataset(images_nhwc, lambda image: {INPUT_NAME: image}),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(images_nhwc),
            # the pyramid's averages and spreads: little work, and exact averages matter
            ignored_scope=nncf.IgnoredScope(
                types=["MatMul", "Transpose", "Sub", "Div", "Mul"], validate=False
            ),
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=overflow),
        )
    return model


def _ranked(
    source: ModelProto,
    quantised: ModelProto,
    layers: Sequence[str],
    images_nhwc: Sequence[NDArray[np.uint8]],
    on_step: Callable[[str], None],
) -> list[str]:
    """Layers, the one first that changes most when it alone is quantised."""
    expected = logits_of(source, images_nhwc)
    errors = {}
    for n, layer in enumerate(layers):
        alone = keep_float(source, quantised, [name for name in layers if name != layer])
        got = logits_of(alone, images_nhwc)
        errors[layer] = sum(float(np.square(a - b).mean()) for a, b in zip(got, expected, strict=True))
        on_step(f"rank layers {n + 1}/{len(layers)}")
    return sorted(layers, key=lambda layer: -errors[layer])


def _agreement(got: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]) -> float:
    """Share of the cells at network stride with the same label."""
    same = [(a.argmax(axis=1) == b.argmax(axis=1)).mean() for a, b in zip(got, expected, strict=True)]
    return float(np.mean(same))


def _before_quantisation(name: str, producers: dict[str, NodeProto]) -> str:
    """The tensor whose quantised and dequantised copy is `name`; `name` itself if it is no such copy."""
    node = producers.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return name
    return str(producers[node.input[0]].input[0])


def _drop_unused(model: ModelProto) -> None:
    """Nodes and weights that nothing reads any more."""
    graph = model.graph
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unread = [node for node in graph.node if not read.intersection(node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def signed(model: Path, path: Path) -> Path:
    """`model` with int8 where it has uint8, as TensorRT wants it: half as fine for what is never negative.

    Returns `path`, which is written.
    """
    graph_model = onnx.load(str(model))
    unsigned = [t for t in graph_model.graph.initializer if t.data_type == onnx.TensorProto.UINT8]
    names = {tensor.name for tensor in unsigned}
    scales = {
        node.input[1]
        for node in graph_model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[2] in names
    }
    for tensor in unsigned:
        zero = np.zeros_like(numpy_helper.to_array(tensor), np.int8)
        tensor.CopyFrom(numpy_helper.from_array(zero, tensor.name))
    for tensor in graph_model.graph.initializer:
        if tensor.name in scales:
            wider = numpy_helper.to_array(tensor) * np.float32(255 / 127)
            tensor.CopyFrom(numpy_helper.from_array(wider.astype(np.float32), tensor.name))
    del graph_model.graph.value_info[:]  # it still says uint8
    onnx.save_model(graph_model, str(path))
    return path
