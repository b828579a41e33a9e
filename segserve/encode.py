"""Label maps as bytes: palette PNG, npy, COCO RLE, and the photo with its mask laid over."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PNG_LEVEL, PNG_STRATEGY = 1, Image.RLE
"""Label maps are runs. zlib's run-length strategy writes them in half the bytes of level 3, in the same time, and what
level 6 saves beyond that takes four times as long. See `python -m benchmarks.masks`."""

SAMPLED_SIDE = 64
OVERLAY_OPACITY = 0.55
OVERLAY_QUALITY = 88


def png(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Palette PNG whose pixel values are the labels; uint8 (H, W) and (num_classes, 3). 255 shows black."""
    image = Image.fromarray(labels)
    image.putpalette(full_palette(palette).tobytes())  # makes it mode "P"
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL, compress_type=PNG_STRATEGY)
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
    mask = Image.fromarray(labels)
    mask.putpalette(full_palette(palette).tobytes())
    photo = Image.fromarray(photo_hwc)
    shown = Image.blend(photo, mask.convert("RGB"), OVERLAY_OPACITY)
    classless = labels >= len(palette)
    if classless.any():
        shown.paste(photo, mask=Image.fromarray(classless))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=OVERLAY_QUALITY)
    return buffer.getvalue()


def full_palette(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The palette filled up with black to the 256 entries of a PNG, uint8 (256, 3)."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    return colours


def shares(labels: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class, int64 (num_classes,); others are not counted."""
    return np.array(Image.fromarray(labels).histogram()[:num_classes], np.int64)


def sampled_shares(labels: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
    """Share of each class in 0..1, float64 (num_classes,), from a grid of at least SAMPLED_SIDE pixels each way.

    For figures that are means over many images anyway: all pixels would take a millisecond a megapixel.
    """
    step_y, step_x = (max(1, side // SAMPLED_SIDE) for side in labels.shape)
    sample = np.ascontiguousarray(labels[::step_y, ::step_x])
    return shares(sample, num_classes) / sample.size


def rles(labels: NDArray[np.uint8], class_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's compressed run-length encoding of each of these classes: {"size": [H, W], "counts": text}.

    Runs go down the columns, zeros first. Each length (from the fourth on: its difference to the one two before) is
    written in groups of 5 bits, low first, 32 marking "more follows", 48 added to make a character: the format of
    pycocotools (rleToString in cocoapi/common/maskApi.c), which decodes it.

    The label map is looked at once, for all classes: its runs are sorted by class.
    """
    flat = labels.T.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    order = np.argsort(flat[starts], kind="stable")
    bounds = np.stack([starts, np.append(starts[1:], flat.size)], axis=1)[order]
    first_run = np.searchsorted(flat[starts[order]], np.arange(257))
    differences = [
        _differences(bounds[first_run[class_id] : first_run[class_id + 1]].ravel(), flat.size)
        for class_id in class_ids
    ]
    size = [int(labels.shape[0]), int(labels.shape[1])]
    return [{"size": size, "counts": counts} for counts in _texts(differences)]


def _differences(bounds: NDArray[np.int64], pixels: int) -> NDArray[np.int64]:
    """What is written for a class, from the starts and ends of its runs."""
    if not bounds.size or bounds[-1] != pixels:
        bounds = np.append(bounds, pixels)
    lengths = np.diff(bounds, prepend=0)
    differences = lengths.copy()
    differences[3:] -= lengths[1:-2]
    return differences


def _texts(numbers: Sequence[NDArray[np.int64]]) -> list[str]:
    """Each of the arrays in COCO's characters; all at once, one group of bits after the other."""
    if not numbers:
        return []
    rest = np.concatenate(numbers)
    characters, written = [], []
    more = np.ones(rest.size, np.bool_)
    while more.any():
        written.append(more)
        group = (rest & 31).astype(np.uint8)
        rest = rest >> 5
        negative = (group & 16) != 0
        more = more & ~((rest == 0) & ~negative | (rest == -1) & negative)
        characters.append(group + np.where(more, 48 + 32, 48).astype(np.uint8))
    used = np.stack(written, axis=1)
    text = np.stack(characters, axis=1)[used].tobytes().decode("ascii")
    ends = np.cumsum(used.sum(axis=1))[np.cumsum([part.size for part in numbers]) - 1].tolist()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
