"""BentoML: one service, `workers` processes, a batchable endpoint with adaptive batching.

A batchable endpoint takes and gives lists, so a request is a form with one file and the answer a JSON list of one
PNG in base64. Started by benchmarks.peers: bentoml serve benchmarks.peers.apps.bentoml_app:Segmenter
"""

from __future__ import annotations

import base64
from pathlib import Path

import bentoml  # type: ignore[import-not-found]

from benchmarks.peers.apps.usual import Segmentation, Settings

SETTINGS = Settings.read()
LATENCY_MS = 600_000
"""BentoML drops requests that would take longer; on a slow CPU behind a queue that is minutes."""


@bentoml.service(workers=SETTINGS.workers, traffic={"timeout": LATENCY_MS // 1000})
class Segmenter:
    """One worker."""

    def __init__(self) -> None:
        self._model = Segmentation(SETTINGS)

    @bentoml.api(batchable=True, max_batch_size=max(2, SETTINGS.batch), max_latency_ms=LATENCY_MS)  # type: ignore[untyped-decorator]
    def segment(self, photos: list[Path]) -> list[str]:
        pngs = self._model.segment([photo.read_bytes() for photo in photos])
        return [base64.b64encode(png).decode() for png in pngs]
