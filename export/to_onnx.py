"""ServedNet -> model.onnx (opset 18), with batch, height and width left open.

Called by export.build; alone:

    to_onnx(ServedNet(net, meta.mean, meta.std).eval(), Path("build/model.onnx"))
"""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from export.served_net import INPUT_NAME, OUTPUT_NAME, ServedNet, example_batch

OPSET = 18


def to_onnx(served: ServedNet, path: Path) -> None:
    """Write the network as ONNX and have onnx's own checker go over it, shapes included."""
    sides = {0: Dim("batch"), 1: Dim("height", min=9), 2: Dim("width", min=9)}
    # torch says at each export that torchvision's operators are not there; none is used
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # torch.export 2.13 trips over its own deprecation
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            program = torch.onnx.export(
                _clamping(served),
                (example_batch(),),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(sides,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.save_model(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)


class _Clamp(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.clamp(0, 6)


def _clamping(served: ServedNet) -> ServedNet:
    """With clamp for ReLU6: both become Clip, but to take ReLU6 apart first is a quarter of a lite0's whole export."""
    served = copy.deepcopy(served)
    for module in list(served.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, _Clamp())
    return served


def _strip(model: onnx.ModelProto) -> None:
    """Take out the exporter's notes on every node: stack traces, with the paths of this machine in them."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
