"""How far the mask of a golden photo may be from the checkpoint's: by the precision of the engine that made it."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.asking import Seen, require_golden
from segserve.errors import CheckFailed

LABELS = np.zeros((100, 100), np.uint8)


def seen(engine: str, wrong: int) -> Seen:
    labels = LABELS.copy()
    labels.flat[:wrong] = 1
    return Seen("2.0", engine, labels, 1.0, 1.0)


@pytest.mark.parametrize(
    ("engine", "allowed"),
    [
        ("onnx", 10),
        ("torchscript", 10),
        ("torchscript-bf16", 300),
        ("onnx_cuda-fp16", 300),
        ("openvino-int8", 1000),
    ],
)
def test_each_precision_has_its_limit(engine: str, allowed: int) -> None:
    assert require_golden(seen(engine, allowed), LABELS, "rooms 2.0", "a.jpg") == 1 - allowed / 10_000
    with pytest.raises(CheckFailed, match=rf"does not segment like its checkpoint: .*expected of {engine}"):
        require_golden(seen(engine, allowed + 1), LABELS, "rooms 2.0", "a.jpg")


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(CheckFailed, match=r"made a mask of 100x100 of a\.jpg, which has 100x50"):
        require_golden(seen("onnx", 0), LABELS[:50], "rooms 2.0", "a.jpg")
