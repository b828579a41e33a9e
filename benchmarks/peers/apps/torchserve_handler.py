"""TorchServe with a handler in the style of its own image_segmenter: TorchScript, torch all the way, JSON.

Its own resizes to 256 and crops to 224, so its masks do not lie on the photo. This one keeps its way (full-resolution
logits, the best class of each pixel, nested lists) at the model's input size and the photo's own. It spares the
probability that image_segmenter adds to each pixel, which would more than double the work.
"""

from __future__ import annotations

from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler

from benchmarks.peers.apps import usual


class PhotoSegmenter(BaseHandler):  # type: ignore[misc]
    """preprocess, inference (BaseHandler's) and postprocess of a batch."""

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self._peer: dict[str, Any] = self.model_yaml_config["peer"]
        torch.set_num_threads(self._peer["threads"])

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        photos = [bytes(row.get("data") or row.get("body") or b"") for row in data]
        self._prepared = [usual.prepare(photo, self._peer["height"], self._peer["width"]) for photo in photos]
        return torch.stack([torch.tensor(item.input_hwc) for item in self._prepared]).to(self.device)

    def postprocess(self, data: torch.Tensor) -> list[list[list[int]]]:
        masks = [
            usual.upsample(logits, prepared, self._peer["align_corners"])
            for logits, prepared in zip(data, self._prepared, strict=True)
        ]
        return [mask.tolist() for mask in masks]
