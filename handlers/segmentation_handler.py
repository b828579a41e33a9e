"""TorchServe's way into segserve: its batches in, its per-request statuses out; everything else is in the core.

TorchServe imports this file by its basename from the unpacked .mar, where `segserve` lies beside it, and demands
that it define exactly one class. Packaged by `python -m export.build`; its settings are in model-config.yaml.
"""

from __future__ import annotations

import http
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segserve import cpu, settings
from segserve.errors import EngineBroken
from segserve.metrics import Metrics
from segserve.request import Request
from segserve.segmenter import Segmenter
from segserve.service import Service

logger = logging.getLogger(__name__)


class SegmentationHandler:
    """`initialize` once in each worker, then `handle` for each batch, one at a time."""

    def initialize(self, context: Any) -> None:
        """Load the model that lies in the .mar and go the whole way once; the worker is READY when this returns.

        Raises: UsageError (settings), SpecError, EngineError; TorchServe then reports that the worker failed to start.
        """
        _take_away_torch_stand_in()
        properties: Mapping[str, Any] = context.system_properties
        config: Mapping[str, Any] = context.model_yaml_config or {}
        own = settings.read(config.get("segserve"))
        threads = own.threads or _threads_per_worker(int(config.get("maxWorkers", 1)))
        segmenter = Segmenter.load(
            Path(properties["model_dir"]),
            threads=threads,
            max_pixels=own.max_pixels,
            fallback=own.fallback,
            device_id=int(properties.get("gpu_id") or 0),
        )
        self._service = Service(segmenter, own.max_response_bytes, threads, own.decode_timeout_s)
        self._service.warm_up(sorted({1, int(properties.get("batch_size") or 1)}))
        spec, engine = segmenter.spec, segmenter.engine
        self._metrics = Metrics(context.model_name, spec.version, engine.device, spec.classes)
        logger.info(
            "%s %s is ready: %s %s on %s",
            spec.name,
            spec.version,
            engine.name,
            engine.precision,
            engine.device,
        )

    def handle(self, data: Sequence[Mapping[str, object]], context: Any) -> list[bytes]:
        """One body for each request of the batch; statuses and headers go through `context`.

        Ends the process when the engine is broken: TorchServe starts another and tells the batch "Worker died.",
        which clients know to try again.
        """
        requests = [
            Request(fields, _headers(context, idx), context.get_request_id(idx) or "-")
            for idx, fields in enumerate(data)
        ]
        try:
            replies = self._service.answer(requests)
        except EngineBroken:
            logger.critical("this worker ends, TorchServe starts a new one", exc_info=True)
            logging.shutdown()
            os._exit(1)  # an exception would fail the batch and keep the worker
        logger.info(self._metrics.lines(requests, replies))
        for idx, reply in enumerate(replies):
            phrase = http.HTTPStatus(reply.status).phrase
            context.set_response_status(code=reply.status, phrase=phrase, idx=idx)
            context.set_response_content_type(idx, reply.content_type)
            for name, value in reply.headers.items():
                context.set_response_header(idx, name, value)
        return [reply.body for reply in replies]


def _headers(context: Any, idx: int) -> dict[str, str]:
    """Names in lower case; a form's fields stand among the headers too, as dicts."""
    headers = context.get_all_request_header(idx)
    return {str(name).lower(): value for name, value in headers.items() if isinstance(value, str)}


def _threads_per_worker(workers: int) -> int:
    """Workers that each took every core would only get in each other's way."""
    return max(1, cpu.cores() // max(1, workers))


def _take_away_torch_stand_in() -> None:
    """TorchServe has imported torch_stand_in.py as torch; from now on `import torch` finds the real one.

    Libraries that look whether torch is loaded (onnxruntime, for its CUDA libraries) see that it is not.
    """
    torch = sys.modules.get("torch")
    model_dir = Path(__file__).resolve().parent
    if torch is not None and Path(str(torch.__file__)).resolve().is_relative_to(model_dir):
        del sys.modules["torch"]
        own = [entry for entry in sys.path if Path(entry).resolve() == model_dir]
        sys.path[:] = [entry for entry in sys.path if entry not in own] + own  # behind site-packages
