"""A checkpoint, photos and what their masks should be; asked again and again under other assumptions.

    patient = Patient(model, meta, photos, expected)
    counts = patient.counts(Pipeline.of(meta))

Counts are kept for every pipeline that was asked for, so that what concerns labels only costs no forward pass. Masks
are not: those of a few large photos under every pipeline would fill the memory.
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
from training.assumptions import Counts, Pipeline, Reading, Resize, fed_bgr, rearranged
from training.diagnosis_scores import agreement
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
    _counts: dict[Pipeline, Counts] = field(default_factory=dict, init=False)

    @property
    def bn_eps(self) -> float:
        """Of the model's batch norms, as its checkpoint has it."""
        return next(module.eps for module in self.model.modules() if isinstance(module, nn.BatchNorm2d))

    def turned(self) -> bool:
        """Whether any photo says that it lies on its side, or is mirrored."""
        return any(orientation(photo) != 1 for photo in self.photos)

    def counts(self, pipeline: Pipeline) -> Counts:
        """int64 (photos, 256, num_classes): pixels of a label's value that were predicted as a class."""
        if pipeline not in self._counts:
            num_classes = len(self.meta.classes)
            counts = []
            for mask, expected in zip(self.masks(pipeline), self.expected, strict=True):
                cells = fitted(expected, mask).astype(np.int64) * num_classes + mask
                counts.append(np.bincount(cells.ravel(), minlength=256 * num_classes))
            self._counts[pipeline] = np.stack(counts).reshape(-1, 256, num_classes)
        return self._counts[pipeline]

    def masks(self, pipeline: Pipeline) -> list[Pixels]:
        """Label maps, uint8, at each photo's own size; made anew at each call."""
        model, masks = self._configured(pipeline), []
        for photo in self.photos:
            pixels, geometry = _input(photo, pipeline, self.meta)
            masks.append(label_map(self._logits(model, pixels, pipeline), geometry, pipeline.align_corners))
        return masks

    def _logits(self, model: pspnet.PSPNet, pixels: Pixels, pipeline: Pipeline) -> NDArray[np.float32]:
        eps = self.bn_eps
        pspnet.set_bn_eps(model, pipeline.bn_eps or eps)
        model.align_corners = model.pyramid.align_corners = pipeline.align_corners
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (pipeline.mean, pipeline.std))
        with torch.inference_mode():
            image = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - mean) / std
            if pipeline.bgr:
                image = image.flip(1)
            image = image.contiguous(
                memory_format=torch.channels_last
            )  # depthwise convolutions are faster so
            logits: NDArray[np.float32] = model(image)[0].numpy()
        pspnet.set_bn_eps(model, eps)
        return np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0)  # a far-off scale may overflow

    def _configured(self, pipeline: Pipeline) -> pspnet.PSPNet:
        if pipeline.layout == self.meta.layout:
            return self.model
        with torch.device("meta"):  # no weights of its own: it shares the model's
            model = pspnet.build(self.meta.preset, len(self.meta.classes), layout=pipeline.layout).eval()
        # the auxiliary head may be absent, and is not asked
        model.load_state_dict(self.model.state_dict(), strict=False, assign=True)
        model.decide = self.model.decide
        return model

    def order(self) -> Reading | None:
        """How the original's masks are to be read, where --order rearranged the outputs, and not the masks too."""
        order = rearranged(self.meta)
        if order is None:
            return None
        counts = self.counts(Pipeline.of(self.meta))
        plain, read = (
            agreement(c.sum(axis=0), self.meta.ignore_label) for c in (counts, order.counts(counts))
        )
        return order if read >= plain else None

    def odd_sizes(self) -> str:
        """What is expected at another size than the photo's, in words; empty if nothing is.

        Lying on its side may be right, where EXIF orientations were not applied.
        """
        sizes = [
            (expected.shape, photo_size(photo))
            for expected, photo in zip(self.expected, self.photos, strict=True)
        ]
        odd = [(got, size) for got, size in sizes if got not in (size, size[::-1])]
        if not odd:
            return ""
        (height, width), (photo_height, photo_width) = odd[0]
        return (
            f"{len(odd)} of {len(sizes)} masks or labels are not of their photo's size (such as {width}x{height} for a "
            f"photo of {photo_width}x{photo_height}) and were stretched to it, so edges differ; save them at the "
            "photos' size."
        )


def photo_size(photo: bytes) -> tuple[int, int]:
    """Height and width, upright, from the file's header."""
    with Image.open(io.BytesIO(photo)) as image:
        width, height = image.size
    return (width, height) if orientation(photo) > 4 else (height, width)


def options(meta: CheckpointMeta, final: Pipeline) -> str:
    """Options of the importer that make a checkpoint with `final`; empty where it is the same, or not imported.

    Mean and std in the order in which the options take them, and both wherever one of the three is wrong: the command
    that made the checkpoint may have given them.
    """
    now, said = Pipeline.of(meta), []
    if "imported_from" not in meta.provenance:
        return ""
    if (final.bgr, final.mean, final.std) != (now.bgr, now.mean, now.std):
        bgr = fed_bgr(meta) != final.bgr
        mean, std = (" ".join(f"{x:.7g}" for x in v[:: -1 if bgr else 1]) for v in (final.mean, final.std))
        said.append(f"--channel-order {'bgr' if bgr else 'rgb'} --mean {mean} --std {std}")
        if "pixels of 0 to 1;" in meta.provenance.get("fed", ""):
            said.append("--pixel-scale 255")
    if final.align_corners != now.align_corners:
        said.append(f"--align-corners {final.align_corners}")
    if final.bn_eps is not None and final.bn_eps != now.bn_eps:
        said.append(f"--bn-eps {final.bn_eps:g}")
    if final.layout is not None and now.layout is not None and final.layout != now.layout:
        if final.layout.contracted != now.layout.contracted:
            said.append(f"--contracted {final.layout.contracted}")
        if final.layout.stride_in != now.layout.stride_in:
            said.append(f"--stride-in {final.layout.stride_in}")
    return " ".join(said)


def fitted(expected: Pixels, mask: Pixels) -> Pixels:
    """The label at the mask's size: as it is, or its nearest pixels where a wrong assumption makes sizes differ."""
    if expected.shape == mask.shape:
        return expected
    return np.asarray(Image.fromarray(expected).resize(mask.shape[::-1], Image.Resampling.NEAREST))


def orientation(photo: bytes) -> int:
    """What EXIF says, 1 to 8: 1 is upright, and so is what says nothing."""
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
