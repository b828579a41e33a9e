"""What every server must answer, and how its answer is read: a fast wrong mask is worth nothing.

The right labels come from fp32 logits (model.onnx in ONNX Runtime) through segserve's exact mask. The peers are held to
those of the photo that Pillow decoded and resized, ours to those of the input that our decoder makes, which reads large
JPEGs at a reduced size: what that alone changes is reported beside it, and is the business of export's parity.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from benchmarks.peers.apps import usual
from benchmarks.photos import Photo
from segserve.engines import Engine
from segserve.errors import CheckFailed
from segserve.geometry import Geometry
from segserve.mask import label_map
from segserve.segmenter import Segmenter
from segserve.spec import ModelSpec

Labels = NDArray[np.uint8]


def right_labels(
    spec: ModelSpec, model: Path, photos: list[Photo], to_input: Callable[[bytes], NDArray[np.uint8]]
) -> list[Labels]:
    """The label map (H, W) of each photo; `to_input` makes the network's input (height, width, 3) of a file."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    labels = []
    for photo in photos:
        (logits_nchw,) = session.run(None, {name: to_input(photo.jpeg)[None]})
        geometry = Geometry.letterbox(photo.height, photo.width, spec.input.height, spec.input.width)
        labels.append(label_map(logits_nchw[0], geometry, spec.align_corners))
    return labels


def usual_input(spec: ModelSpec) -> Callable[[bytes], NDArray[np.uint8]]:
    """How the peers make it."""
    return lambda jpeg: usual.prepare(jpeg, spec.input.height, spec.input.width).input_hwc


def our_input(spec: ModelSpec) -> Callable[[bytes], NDArray[np.uint8]]:
    """How we make it."""
    segmenter = Segmenter(spec, cast(Engine, None))  # it prepares photos without one
    return lambda jpeg: segmenter.prepare(jpeg).input_hwc


def from_png(body: bytes) -> Labels:
    """Labels of a palette PNG. Raises: CheckFailed."""
    try:
        image = Image.open(io.BytesIO(body), formats=["PNG"])
        image.load()
    except (OSError, SyntaxError) as error:  # how Pillow names what it cannot read
        raise CheckFailed(f"not a whole PNG: {type(error).__name__}") from None
    if image.mode != "P":
        raise CheckFailed(f"a PNG of mode {image.mode}, expected class ids with a palette")
    return np.asarray(image, np.uint8)


def from_base64_list(body: bytes) -> Labels:
    """Labels of a JSON list of one PNG in base64. Raises: CheckFailed."""
    try:
        (text,) = json.loads(body)
        png = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise CheckFailed(f"not a JSON list of one PNG: {error}") from None
    return from_png(png)


def from_nested_lists(body: bytes) -> Labels:
    """Labels of JSON rows of class ids. Raises: CheckFailed."""
    try:
        return np.array(json.loads(body), np.uint8)
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckFailed(f"not rows of class ids: {error}") from None


def agreement(labels: Labels, right: Labels) -> float:
    """Share of equal pixels. Raises: CheckFailed where the sizes differ."""
    if labels.shape != right.shape:
        raise CheckFailed(f"a mask of {labels.shape} (height, width) for a photo of {right.shape}")
    return float(np.mean(labels == right))


def agreements(
    answers: list[tuple[int, bytes]], read: Callable[[bytes], Labels], right: list[Labels]
) -> list[float]:
    """Of bodies with the number of their photo. Raises: CheckFailed where one is no mask of its photo."""
    return [agreement(read(body), right[photo]) for photo, body in answers]
