"""A checkpoint, photos and what their masks should be; asked again and again under other assumptions.

    patient = Patient(model, meta, photos, expected)
    counts = patient.counts(Pipeline.of(meta))

Masks are kept for every pipeline that was asked for, so that what concerns labels only costs no forward pass.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from segserve.geometry import Geometry
from segserve.image import ORIENTATION_TAG, read
from segserve.mask import label_map
from segserve.resize import PAD_VALUE, to_input
from training import pspnet
from training.assumptions import Counts, Pipeline, Resize
from training.meta import CheckpointMeta

Pixels = NDArray[np.uint8]
FILTERS: dict[Resize, Image.Resampling] = {
    "served": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip


@dataclass
class Patient:
    """`photos`: image files' bytes. `expected`: values of the label files, uint8 (H, W), 255 values possible."""

    model: pspnet.PSPNet
    meta: CheckpointMeta
    photos: Sequence[bytes]
    expected: Sequence[Pixels]
    _masks: dict[Pipeline, list[Pixels]] = field(default_factory=dict)

    @property
    def bn_eps(self) -> float:
        """Of the model's batch norms, as its checkpoint has it."""
        return next(module.eps for module in self.model.modules() if isinstance(module, nn.BatchNorm2d))

    def turned(self) -> bool:
        """Whether any photo says that it lies on its side, or is mirrored."""
        return any(_orientation(photo) != 1 for photo in self.photos)

    def counts(self, pipeline: Pipeline) -> Counts:
        """int64 (photos, 256, num_classes): pixels of a label's value that were predicted as a class."""
        num_classes = len(self.meta.classes)
        counts = []
        for mask, expected in zip(self.masks(pipeline), self.expected, strict=True):
            cells = fitted(expected, mask).astype(np.int64) * num_classes + mask
            counts.append(np.bincount(cells.ravel(), minlength=256 * num_classes))
        return np.stack(counts).reshape(-1, 256, num_classes)

    def masks(self, pipeline: Pipeline) -> list[Pixels]:
        """Label maps, uint8, at each photo's own size."""
        if pipeline not in self._masks:
            inputs = [_input(photo, pipeline, self.meta) for photo in self.photos]
            logits = self._logits(np.stack([pixels for pixels, _ in inputs]), pipeline)
            self._masks[pipeline] = [
                label_map(item, geometry, pipeline.align_corners)
                for item, (_, geometry) in zip(logits, inputs, strict=True)
            ]
        return self._masks[pipeline]

    def _logits(self, images_nhwc: Pixels, pipeline: Pipeline) -> NDArray[np.float32]:
        model, eps = self._configured(pipeline), self.bn_eps
        pspnet.set_bn_eps(model, pipeline.bn_eps or eps)
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (pipeline.mean, pipeline.std))
        with torch.inference_mode():
            images = (torch.from_numpy(images_nhwc).permute(0, 3, 1, 2).float() - mean) / std
            if pipeline.bgr:
                images = images.flip(1)
            images = images.contiguous(
                memory_format=torch.channels_last
            )  # depthwise convolutions are faster so
            logits: NDArray[np.float32] = torch.cat([model(image[None]) for image in images]).numpy()
        pspnet.set_bn_eps(model, eps)
        return np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0)  # a far-off scale may overflow

    def _configured(self, pipeline: Pipeline) -> pspnet.PSPNet:
        model = self.model
        if pipeline.layout != self.meta.layout:
            model = pspnet.build(self.meta.preset, len(self.meta.classes), layout=pipeline.layout).eval()
            model.load_state_dict(self.model.state_dict(), strict=False)  # the auxiliary head may be absent
        model.align_corners = model.pyramid.align_corners = pipeline.align_corners
        return model


def fitted(expected: Pixels, mask: Pixels) -> Pixels:
    """The label at the mask's size: as it is, or its nearest pixels where a wrong assumption makes sizes differ."""
    if expected.shape == mask.shape:
        return expected
    return np.asarray(Image.fromarray(expected).resize(mask.shape[::-1], Image.Resampling.NEAREST))


def _orientation(photo: bytes) -> int:
    with Image.open(io.BytesIO(photo)) as image:
        return int(image.getexif().get(ORIENTATION_TAG, 1))


def _input(photo: bytes, pipeline: Pipeline, meta: CheckpointMeta) -> tuple[Pixels, Geometry]:
    """Network input, uint8 (height, width, 3), and how the photo lies in it."""
    height, width = meta.input_height, meta.input_width
    if pipeline.resize == "served" and pipeline.upright:
        return to_input(read(photo, input_size=(height, width)), height, width)
    decoded = read(photo)
    rgb = decoded.upright() if pipeline.upright else np.array(decoded.rgb)
    photo_height, photo_width = rgb.shape[:2]
    geometry = Geometry.letterbox(photo_height, photo_width, height, width)
    if pipeline.resize == "stretched":
        geometry = Geometry(photo_height, photo_width, height, width, 0, 0, height, width)
    padded = np.full((height, width, 3), PAD_VALUE, np.uint8)
    bottom, right = geometry.top + geometry.content_height, geometry.left + geometry.content_width
    size = (geometry.content_height, geometry.content_width)
    padded[geometry.top : bottom, geometry.left : right] = _resized(rgb, size, pipeline.resize)
    return padded, geometry


def _resized(rgb: Pixels, size: tuple[int, int], resize: Resize) -> Pixels:
    if resize == "bilinear without antialiasing":  # OpenCV's INTER_LINEAR and torch's default
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
        small = nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
        return small[0].permute(1, 2, 0).round().byte().numpy()
    if resize == "area" and size[0] <= rgb.shape[0] and size[1] <= rgb.shape[1]:
        down, across = _shares(rgb.shape[0], size[0]), _shares(rgb.shape[1], size[1])
        cells: NDArray[np.float32] = np.einsum("hH,HWc,wW->hwc", down, rgb, across, optimize=True)
        return cells.round().astype(np.uint8)
    how = FILTERS.get(resize, Image.Resampling.BILINEAR)
    return np.asarray(Image.fromarray(rgb).resize(size[::-1], how))


def _shares(pixels: int, cells: int) -> NDArray[np.float32]:
    """Which share of each cell every pixel of a line covers, (cells, pixels): OpenCV's INTER_AREA, when it shrinks."""
    edges = np.arange(cells + 1) * (pixels / cells)
    starts = np.arange(pixels)
    covered = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    shares: NDArray[np.float32] = (covered.clip(min=0) * (cells / pixels)).astype(np.float32)
    return shares
