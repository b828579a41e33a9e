"""model.onnx -> the same network in half precision, for the GPU engines.

    half = to_half(onnx.load("build/rooms/model.onnx"))
    onnx.save_model(half, "build/rooms/model-fp16.onnx")

Everything from the first convolution on becomes float16, the logits too. Three things stay float32: the normalisation,
whose mean and deviation float16 would round; the pyramid's pooling and upsampling matrices until they are ready,
because float16 counts exactly only to 2048; and convolutions with large weights (`LARGE_WEIGHT`). Types are explicit
everywhere, as TensorRT's strongly typed networks want them, and a quantised graph (int8 QuantizeLinear and
DequantizeLinear) keeps its int8 parts.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.version_converter import convert_version

from segserve.errors import EngineError

QDQ_OPSET = 21
"""From opset 19 on scales may be float16; 21 is the one that quantisers write."""

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
SCALED = ("QuantizeLinear", "DequantizeLinear")
SMALLEST_HALF = 2.0**-24
LARGEST_HALF = 65504.0

LARGE_WEIGHT = 16.0
"""From here on float16 rounds a weight by up to 2**-7.

A batch norm of small variance, folded into its convolution, makes large weights whose products cancel; their rounding
does not. On the demo model, three of 54 convolutions in float32 bring the labels that differ from 2.1 to 0.7 in a
thousand (ONNX Runtime, 16 rendered rooms, at the network's stride).
"""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float16 from the first convolution to the logits; the input stays uint8.

    Raises EngineError for a weight beyond float16.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]  # types are inferred anew: a quantiser may have left those of before
    quantised = any(node.op_type == "DequantizeLinear" for node in result.graph.node)
    if quantised and result.opset_import[0].version < QDQ_OPSET:
        result = convert_version(result, QDQ_OPSET)
    inferred = onnx.shape_inference.infer_shapes(result)
    _Conversion(result, _element_types(inferred)).run()
    return result


class _Conversion:
    """One pass over the nodes in order; `half` holds the names of the tensors that are float16 by now."""

    def __init__(self, model: onnx.ModelProto, types: dict[str, int]) -> None:
        self.model, self.types = model, types
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.half: set[str] = set()
        self.cast: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        graph = self.model.graph
        for node in graph.node:
            if self._has_large_weights(node):
                self._keep_float(node)
            elif self._becomes_half(node):
                self._convert(node)
            self.nodes.append(node)
        nodes = list(self.nodes)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [tensor for name, tensor in self.weights.items() if name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        for output in graph.output:
            if output.name in self.half:
                output.type.tensor_type.elem_type = HALF

    def _becomes_half(self, node: onnx.NodeProto) -> bool:
        """The first convolution does, and whatever reads something that is half already."""
        return node.op_type in ("Conv", "DequantizeLinear") or any(name in self.half for name in node.input)

    def _has_large_weights(self, node: onnx.NodeProto) -> bool:
        return (
            node.op_type == "Conv"
            and node.input[1] in self.weights
            and _largest(self.weights[node.input[1]]) >= LARGE_WEIGHT
        )

    def _keep_float(self, node: onnx.NodeProto) -> None:
        for index, name in enumerate(node.input):
            if name in self.half:
                node.input[index] = self._cast(name, FLOAT)

    def _convert(self, node: onnx.NodeProto) -> None:
        for index, name in enumerate(node.input):
            if self.types.get(name) == FLOAT and name not in self.half:
                # a scale that float16 rounds to 0 would divide by it
                least = SMALLEST_HALF if index == 1 and node.op_type in SCALED else -np.inf
                known = name in self.weights
                node.input[index] = self._weight(name, least) if known else self._cast(name, HALF)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = HALF
        self.half.update(name for name in node.output if self.types.get(name) == FLOAT)

    def _weight(self, name: str, least: float) -> str:
        """A float16 copy of a weight, at least `least`; the original goes if nothing else reads it."""
        new = f"{name}_half"
        if new not in self.weights:
            if (largest := _largest(self.weights[name])) > LARGEST_HALF:
                raise EngineError(
                    f"{name} holds {largest:.3g}, more than float16 can ({LARGEST_HALF:g}): "
                    "serve this model in fp32 or bf16"
                )
            values = np.maximum(numpy_helper.to_array(self.weights[name]), least).astype(np.float16)
            self.weights[new] = numpy_helper.from_array(values, new)
        return new

    def _cast(self, name: str, to: int) -> str:
        """The tensor in the other precision, cast once however many nodes read it so."""
        new = f"{name}_half" if to == HALF else f"{name}_float"
        if new not in self.cast:
            self.cast.add(new)
            self.nodes.append(helper.make_node("Cast", [name], [new], name=new, to=to))
            if to == HALF:
                self.half.add(new)
        return new


def _largest(weight: onnx.TensorProto) -> float:
    return float(np.abs(numpy_helper.to_array(weight)).max(initial=0.0))


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor name -> element type, of every tensor of the graph."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    missing = {name for node in graph.node for name in node.output} - types.keys()
    if missing:
        raise EngineError(f"onnx cannot tell the types of {', '.join(sorted(missing)[:5])}")
    return types
