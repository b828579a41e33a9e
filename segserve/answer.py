"""The body of an answer, in each of its formats, and of an error. Pure functions, no server types.

What `classes=` leaves out is label 255 in `npy`, black in `png`, untinted in `overlay`, not listed in `json`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segserve import encode
from segserve.errors import ImageTooLarge
from segserve.labels import IGNORE_LABEL
from segserve.spec import ModelSpec

ERROR_CONTENT_TYPE: Final = "application/json"

_JPEG_MAX_SIDE: Final = 65_500  # libjpeg's JPEG_MAX_DIMENSION
_NPY_HEADER_BYTES: Final = 128


def body(
    answer_format: str,
    labels: NDArray[np.uint8],
    photo_hwc: NDArray[np.uint8] | None,
    spec: ModelSpec,
    *,
    class_ids: tuple[int, ...] | None,
    timings_ms: Mapping[str, float],
    max_bytes: int,
    gzipped: bool = False,
) -> bytes:
    """Encode a label map as one of `segserve.request.CONTENT_TYPES`.

    Args: labels (height, width); photo_hwc (height, width, 3) RGB, which only `overlay` needs; class_ids None for all;
    timings_ms of the steps so far, reported in `json`; max_bytes is what the server survives sending; gzipped packs
    the bytes, for which a label map is a hundredth as large (the other formats are packed already).

    Raises: ImageTooLarge.
    """
    height, width = labels.shape
    if answer_format == "overlay" and max(height, width) > _JPEG_MAX_SIDE:
        raise ImageTooLarge(
            f"a JPEG can't be {width} x {height}; ask for format=png, or scale the image to {_JPEG_MAX_SIDE} at most"
        )
    if answer_format == "npy" and not gzipped:
        _check_bytes(answer_format, labels.size + _NPY_HEADER_BYTES, max_bytes)  # known before it is made
    if answer_format == "png":
        encoded = encode.png(_restrict(labels, class_ids), spec.palette_rgb)
    elif answer_format == "json":
        encoded = json_body(labels, spec, class_ids, timings_ms)
    elif answer_format == "npy":
        encoded = encode.npy(_restrict(labels, class_ids))
    else:
        assert answer_format == "overlay", answer_format
        assert photo_hwc is not None, "an overlay shows the photo: prepare it with_photo=True"
        encoded = encode.overlay_jpeg(photo_hwc, _restrict(labels, class_ids), spec.palette_rgb)
    if gzipped:
        encoded = gzip.compress(encoded, compresslevel=1, mtime=0)
    _check_bytes(answer_format, len(encoded), max_bytes)
    return encoded


def json_body(
    labels: NDArray[np.uint8],
    spec: ModelSpec,
    class_ids: tuple[int, ...] | None,
    timings_ms: Mapping[str, float],
) -> bytes:
    """Size, classes present (id, name, pixels, fraction of the image, COCO RLE), model and timings, as UTF-8."""
    height, width = labels.shape
    pixels = encode.shares(labels, len(spec.classes)).tolist()
    wanted = range(len(spec.classes)) if class_ids is None else class_ids
    present = [class_id for class_id in wanted if pixels[class_id]]
    classes = [
        {
            "id": class_id,
            "name": spec.classes[class_id],
            "pixels": pixels[class_id],
            "fraction": pixels[class_id] / labels.size,
            "rle": rle,
        }
        for class_id, rle in zip(present, encode.rles(labels, present), strict=True)
    ]
    answer = {
        "image": {"width": width, "height": height},
        "classes": classes,
        "model": {"name": spec.name, "version": spec.version},
        "timings_ms": {step: round(duration, 3) for step, duration in timings_ms.items()},
    }
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


def error_body(error_type: str, message: str) -> bytes:
    """`{"error": {"type", "message"}}` as UTF-8; to be sent as ERROR_CONTENT_TYPE."""
    # a lone surrogate in what a client sent must not keep it from its error
    answer = {"error": {"type": error_type, "message": message}}
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")


def smaller(answer_format: str) -> list[str]:
    """What a client can do to get the same labels in fewer bytes."""
    packed = ["accept gzip (curl --compressed)"] if answer_format == "npy" else []
    return packed + (["ask for format=png"] if answer_format != "png" else [])


def _restrict(labels: NDArray[np.uint8], class_ids: tuple[int, ...] | None) -> NDArray[np.uint8]:
    if class_ids is None:
        return labels
    table = np.full(256, IGNORE_LABEL, np.uint8)
    table[list(class_ids)] = class_ids
    restricted: NDArray[np.uint8] = table[labels]
    return restricted


def _check_bytes(answer_format: str, num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ImageTooLarge(
            f"the answer as {answer_format} has {num_bytes:,} bytes, {max_bytes:,} are allowed; "
            + ", or ".join(["scale the image down", *smaller(answer_format)])
        )
