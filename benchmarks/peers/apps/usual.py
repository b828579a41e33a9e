"""Photo in, mask out, the way it is usually written: Pillow, ONNX Runtime, torch's upsampling and argmax, Pillow.

The peers share it, so that what is compared are servers and not four ways of resizing. Masks have the photo's own
size and the labels are those of segserve's exact mask, up to rounding.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

PAD_VALUE = 127
VARIABLE = "PEER_SETTINGS"
"""Environment variable with a `Settings` as JSON: the one way in that workers of every framework share."""


@dataclass(frozen=True)
class Settings:
    """Where the model is, what it eats, and how the server is to run it."""

    model: str
    height: int
    width: int
    align_corners: bool
    palette: list[int]
    workers: int
    threads: int
    batch: int
    port: int

    @classmethod
    def read(cls) -> Settings:
        """From the environment."""
        return cls(**json.loads(os.environ[VARIABLE]))


@dataclass(frozen=True)
class Prepared:
    """The network's input and where the photo lies in it."""

    input_hwc: NDArray[np.uint8]
    photo_size: tuple[int, int]  # height, width
    content: tuple[int, int, int, int]  # top, left, height, width


class Segmentation:
    """A model and the steps around it."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        self._session = onnxruntime.InferenceSession(
            settings.model, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._settings = settings

    def prepare(self, data: bytes) -> Prepared:
        """Decode, turn upright, letterbox."""
        return prepare(data, self._settings.height, self._settings.width)

    def logits(self, inputs: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """One call for the whole batch: (N, classes, h, w)."""
        outputs = self._session.run(None, {self._input: np.stack(inputs)})
        logits_nchw: NDArray[np.float32] = outputs[0]
        return logits_nchw

    def png(self, logits_chw: NDArray[np.float32], prepared: Prepared) -> bytes:
        """Mask at the photo's size as palette PNG."""
        labels = upsample(torch.from_numpy(logits_chw), prepared, self._settings.align_corners)
        mask = Image.fromarray(labels.numpy())
        mask.putpalette(self._settings.palette)
        file = io.BytesIO()
        mask.save(file, "PNG")
        return file.getvalue()

    def segment(self, photos: Sequence[bytes]) -> list[bytes]:
        """The whole way for a batch, one step after another."""
        prepared = [self.prepare(photo) for photo in photos]
        logits_nchw = self.logits([item.input_hwc for item in prepared])
        return [self.png(logits, item) for logits, item in zip(logits_nchw, prepared, strict=True)]


def prepare(data: bytes, height: int, width: int) -> Prepared:
    """Letterbox an upright photo into height x width."""
    photo = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    scale = min(height / photo.height, width / photo.width)
    content_height, content_width = round(photo.height * scale), round(photo.width * scale)
    top, left = (height - content_height) // 2, (width - content_width) // 2
    boxed = Image.new("RGB", (width, height), (PAD_VALUE, PAD_VALUE, PAD_VALUE))
    boxed.paste(photo.resize((content_width, content_height), Image.Resampling.BILINEAR), (left, top))
    return Prepared(
        np.asarray(boxed), (photo.height, photo.width), (top, left, content_height, content_width)
    )


def upsample(logits_chw: torch.Tensor, prepared: Prepared, align_corners: bool) -> torch.Tensor:
    """Logits at the input's size, bars cut off, logits at the photo's size, argmax: uint8 (H, W)."""
    top, left, content_height, content_width = prepared.content
    boxed = interpolate(
        logits_chw[None], prepared.input_hwc.shape[:2], mode="bilinear", align_corners=align_corners
    )
    content = boxed[:, :, top : top + content_height, left : left + content_width]
    full = interpolate(content, prepared.photo_size, mode="bilinear", align_corners=align_corners)
    return full[0].argmax(0).to(torch.uint8)
