"""Two small models that differ, exported and packaged the real way but compared on small pictures only.

    python -m tests.small_export FOLDER VERSION ENGINE SEED

The backbone has its ImageNet weights and the head is random, so masks have several classes and depend on the photo.
The parity check is whole (12 input sizes, 3 batch sizes); the pictures are small because a real build takes a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, cast
from unittest import mock

import torch

from export import build, cases, variants
from segserve.labels import IGNORE_LABEL, ROOM_CLASSES
from training import pspnet
from training.checkpoint import CheckpointMeta, save_checkpoint

PRESET = "pspnet_lite0"
INPUT_HEIGHT, INPUT_WIDTH = 97, 129


def main(folder: Path, version: str, engine: Literal["onnx", "torchscript"], seed: int) -> None:
    torch.manual_seed(seed)
    model = pspnet.build(PRESET, len(ROOM_CLASSES), pretrained=True)
    mean, std = pspnet.normalisation(PRESET)
    meta = CheckpointMeta(
        PRESET,
        ROOM_CLASSES,
        IGNORE_LABEL,
        mean,
        std,
        model.align_corners,
        INPUT_HEIGHT,
        INPUT_WIDTH,
        0,
        {},
        {},
    )
    checkpoint = folder / "model.safetensors"
    save_checkpoint(checkpoint, model.state_dict(), meta)
    sizes = tuple((33 + 8 * n, 41 + 7 * n) for n in range(12))
    with (
        mock.patch.multiple(cases, PHOTOS=((97, 131, 1), (120, 100, 6)), INPUT_SIZES=sizes),
        mock.patch.object(variants, "NEUTRAL", ()),
    ):
        build.main(build.BuildConfig(checkpoint, folder, engine=engine, version=version))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], cast(Literal["onnx", "torchscript"], sys.argv[3]), int(sys.argv[4]))
