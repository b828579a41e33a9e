"""A checkpoint behind the interface of the served engines: the reference that exports are compared with.

    segmenter = checkpoint_segmenter(Path("model_store/demo/rooms.safetensors"))
    labels = segmenter.segment(Path("photo.jpg").read_bytes())

Only the engine differs from what is served; decoding, letterboxing and mask making are segserve's own.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segserve.labels import palette
from segserve.segmenter import Segmenter
from segserve.spec import Artefact, InputSpec, ModelSpec, sha256_file
from training.checkpoint import CheckpointMeta, load_model
from training.pspnet import PSPNet


class CheckpointEngine:
    """Eager PyTorch in float32 on the CPU, the arithmetic that every export has to reproduce."""

    name = "torch"
    precision = "fp32"
    device = "cpu"
    provider = "eager"

    def __init__(self, model: PSPNet, meta: CheckpointMeta) -> None:
        self.model = model.eval()
        self._mean = torch.tensor(meta.mean).reshape(1, 3, 1, 1)
        self._std = torch.tensor(meta.std).reshape(1, 3, 1, 1)

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3) RGB -> logits float32 (N, num_classes, ceil(H/8), ceil(W/8))."""
        with torch.inference_mode():
            images_nchw = torch.from_numpy(images_nhwc).permute(0, 3, 1, 2).float()
            logits: NDArray[np.float32] = self.model((images_nchw - self._mean) / self._std).numpy()
            return logits


def checkpoint_spec(path: Path, meta: CheckpointMeta) -> ModelSpec:
    """What model_spec.json would say if the checkpoint itself were served: it is its own artefact."""
    digest = sha256_file(path)
    return ModelSpec(
        name=path.stem,
        version="0.0",
        preset=meta.preset,
        classes=meta.classes,
        palette=tuple((int(r), int(g), int(b)) for r, g, b in palette(len(meta.classes))),
        ignore_label=meta.ignore_label,
        input=InputSpec(meta.input_height, meta.input_width, meta.mean, meta.std),
        stride=PSPNet.stride,
        align_corners=meta.align_corners,
        artefacts=(Artefact(path.name, CheckpointEngine.name, "fp32", digest, path.stat().st_size),),
        engine=CheckpointEngine.name,
        checkpoint_sha256=digest,
        versions={"python": platform.python_version(), "torch": torch.__version__},
        parity={},
    )


def checkpoint_segmenter(path: Path) -> Segmenter:
    """The served path on a checkpoint. Raises CheckpointError."""
    model, meta = load_model(path)
    return Segmenter(checkpoint_spec(path, meta), CheckpointEngine(model, meta))
