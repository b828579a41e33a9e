"""Call the handler as TorchServe calls it: its context, its mixture of headers and fields."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from handlers.segmentation_handler import SegmentationHandler
from segserve.segmenter import Segmenter

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # ts.version leaves its file open
    from ts.context import Context, RequestProcessor

Fields = Mapping[str, object]
Served = tuple[int, dict[str, str], bytes]


def photo(left: Any, right: Any, height: int = 48, width: int = 64, file_format: str = "PNG") -> bytes:
    """A photo of two halves."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = left, right
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def mask_of(served: Served) -> NDArray[np.uint8]:
    status, headers, body = served
    assert (status, headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(body)))


def error_of(served: Served) -> tuple[int, str, str]:
    status, headers, body = served
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert set(error) == {"type", "message"}
    return status, error["type"], error["message"]


class Caller:
    """A ready handler, called as TorchServe calls it."""

    def __init__(
        self,
        segmenter: Segmenter,
        monkeypatch: pytest.MonkeyPatch,
        config: dict[str, Any],
        gpu_id: int | None = None,
    ) -> None:
        self.loaded_with: dict[str, Any] = {}

        def load(folder: Path, **options: Any) -> Segmenter:
            self.loaded_with = {"folder": folder, **options}
            return segmenter

        monkeypatch.setattr(Segmenter, "load", load)
        self.context = Context("m", "/models/m", {}, 4, gpu_id, "0.12.0", model_yaml_config=config)
        self.handler = SegmentationHandler()
        self.handler.initialize(self.context)

    def __call__(self, *batch: Fields, headers: Sequence[Mapping[str, object]] = ()) -> list[Served]:
        """Status, headers and body of each request; `headers` beside the fields' own, as TorchServe mixes them."""
        padded = [*headers, *({} for _ in range(len(batch) - len(headers)))]
        self.context.request_processor = [
            RequestProcessor({**{name: {"content-type": ""} for name in fields}, **own})
            for fields, own in zip(batch, padded, strict=True)
        ]
        bodies = self.handler.handle(list(batch), self.context)
        assert isinstance(bodies, list)
        return [
            (self.context.get_response_status(idx)[0], dict(self.context.get_response_headers(idx)), body)
            for idx, body in enumerate(bodies)
        ]
