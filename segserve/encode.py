"""Label maps as bytes: palette PNG, npy, COCO RLE, and the photo with its mask laid over."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve.jit import kernel

PNG_LEVEL = 3  # on label maps a quarter of the time of level 6, for half as many bytes again
OVERLAY_OPACITY = 0.55
OVERLAY_QUALITY = 88


def png(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Palette PNG whose pixel values are the labels; uint8 (H, W) and (num_classes, 3). 255 shows black."""
    image = Image.fromarray(labels)
    image.putpalette(full_palette(palette).tobytes())  # makes it mode "P"
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def npy(labels: NDArray[np.uint8]) -> bytes:
    """NumPy's own file format, uint8 (H, W)."""
    buffer = io.BytesIO()
    np.save(buffer, labels, allow_pickle=False)
    return buffer.getvalue()


def overlay_jpeg(
    photo_hwc: NDArray[np.uint8], labels: NDArray[np.uint8], palette: NDArray[np.uint8]
) -> bytes:
    """Photo and mask blended, JPEG; pixels without a class (labels past the palette) stay as they are."""
    colours = np.asarray(full_palette(palette), np.uint8)[labels]
    blended = np.asarray(Image.blend(Image.fromarray(photo_hwc), Image.fromarray(colours), OVERLAY_OPACITY))
    shown = np.where((labels < len(palette))[..., None], blended, photo_hwc)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "JPEG", quality=OVERLAY_QUALITY)
    return buffer.getvalue()


def full_palette(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The palette filled up with black to the 256 entries of a PNG, uint8 (256, 3)."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    return colours


def shares(labels: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class, int64 (num_classes,); others are not counted."""
    return np.bincount(labels.ravel(), minlength=256)[:num_classes].astype(np.int64)


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run-length encoding of one class: {"size": [H, W], "counts": text}.

    Runs go down the columns, zeros first. Each length (from the third on: its difference to the one two before) is
    written in groups of 5 bits, low first, 32 marking "more follows", 48 added to make a character: the format of
    pycocotools (rleToString in cocoapi/common/maskApi.c), which decodes it.
    """
    flat = np.ascontiguousarray(mask.T).ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], changes, [flat.size]))
    if flat.size and flat[0]:
        bounds = np.concatenate(([0], bounds))  # an empty run of zeros first
    lengths = np.diff(bounds)
    differences = lengths.copy()
    differences[3:] -= lengths[1:-2]
    return {
        "size": [int(mask.shape[0]), int(mask.shape[1])],
        "counts": _text(differences).tobytes().decode("ascii"),
    }


@kernel(nogil=True)
def _text(differences: NDArray[np.int64]) -> NDArray[np.uint8]:  # pragma: no cover - compiled
    out = np.empty(differences.size * 13, np.uint8)
    count = 0
    for difference in differences:
        value, more = difference, True
        while more:
            group = value & 31
            value >>= 5
            more = not ((value == 0 and not group & 16) or (value == -1 and group & 16 != 0))
            out[count] = group + (32 if more else 0) + 48
            count += 1
    return out[:count]
