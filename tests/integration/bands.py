"""Photos in bands of colour, and an exported model that knows the bands: right masks without a training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from segserve.labels import palette
from segserve.spec import SPEC_FILE, Artefact, InputSpec, ModelSpec, sha256_file

CLASSES = ("wall", "floor", "ceiling")
COLOURS = np.array([[200, 40, 30], [30, 190, 60], [40, 50, 210]], np.uint8)
SIZES = ((96, 128), (64, 160), (150, 90), (48, 64))


def write_dataset(folder: Path) -> Path:
    """Photos of several sizes in bands of colour; the first file is stored lying and turned upright by EXIF."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        label = np.zeros((height, width), np.uint8)
        label[height // 3 :] = 2
        label[2 * height // 3 :, width // 4 :] = 1
        photo = Image.fromarray(COLOURS[label])
        exif = Image.Exif()
        if number == 0:
            photo = photo.transpose(Image.Transpose.ROTATE_90)
            exif[274] = 6  # to be turned by 90 degrees clockwise
        photo.save(folder / "images" / f"{number}.png", exif=exif)
        label[0, :5] = 255
        Image.fromarray(label).save(folder / "labels" / f"{number}.png")
    path = folder / "dataset.toml"
    classes = json.dumps(CLASSES)
    path.write_text(
        f'name = "bands"\nclasses = {classes}\n[splits.val]\nimages = "images"\nlabels = "labels"\n'
    )
    return path


def export_colours(folder: Path, scale: float = 1.0) -> Path:
    """An exported folder whose network knows the bands: the class of the nearest colour, every eighth pixel.

    scale: of its logits; little of it, and the network is sure of nothing.
    """
    weights = 2 * COLOURS.astype(np.float32).reshape(3, 3, 1, 1)  # |x - c|^2 = |x|^2 - 2 c x + |c|^2
    bias = -(COLOURS.astype(np.float32) ** 2).sum(axis=1)
    constants = {"weights": scale * weights, "bias": scale * bias} | {
        name: np.array(value, np.int64)
        for name, value in {"starts": [0, 0], "ends": [9999, 9999], "axes": [2, 3], "steps": [8, 8]}.items()
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images_nhwc"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["floats"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Slice", ["nchw", "starts", "ends", "axes", "steps"], ["cells"]),
            helper.make_node("Conv", ["cells", "weights", "bias"], ["logits_nchw"]),
        ],
        "colours",
        [helper.make_tensor_value_info("images_nhwc", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("logits_nchw", TensorProto.FLOAT, ["n", 3, "y", "x"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    folder.mkdir(exist_ok=True)
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    artefact = Artefact(file.name, "onnx", "fp32", sha256_file(file), file.stat().st_size)
    colours = tuple((int(r), int(g), int(b)) for r, g, b in palette(3))
    inputs = InputSpec(96, 128, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    ModelSpec(
        "colours",
        "1.0",
        "none",
        CLASSES,
        colours,
        255,
        inputs,
        8,
        True,
        (artefact,),
        "onnx",
        "0" * 64,
        {},
        {},
    ).save(folder / SPEC_FILE)
    return folder
