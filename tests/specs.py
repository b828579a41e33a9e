"""A small model spec for tests that need one: three classes, an input of 64 x 64."""

from __future__ import annotations

from typing import Any

from segserve.spec import Artefact, InputSpec, ModelSpec


def make_spec(**changes: Any) -> ModelSpec:
    """The spec, with some of its fields changed."""
    fields: dict[str, Any] = {
        "name": "rooms", "version": "1.2", "preset": "pspnet18", "classes": ("wall", "floor", "ceiling"),
        "palette": ((128, 0, 0), (0, 128, 0), (0, 0, 128)), "ignore_label": 255,
        "input": InputSpec(64, 64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)), "stride": 8,
        "align_corners": False, "artefacts": (Artefact("model.onnx", "onnx", "fp32", "0" * 64, 1),),
        "engine": "onnx", "checkpoint_sha256": "0" * 64, "versions": {}, "parity": {},
    }  # fmt: skip
    return ModelSpec(**{**fields, **changes})
