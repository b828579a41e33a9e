"""A batch of requests → a batch of replies: what serving does, whichever server it sits in.

Every request has its own fate: what fails for one (its image, our code, its turn in the engine) becomes its own
reply, and its neighbours get exactly what they would get alone. The engine is called once for all images of
the batch; what happens if that fails is in segserve.inference.

Before and after the engine, the images of a batch are worked on side by side in threads: encoders, the mask kernels and
all decoders but that of JPEG 2000 let go of Python's lock. Decoding has threads of its own, with a deadline
(segserve.decode_pool). Overlap with the engine comes from several workers (on a CPU there is nothing to gain by it: the
engine takes every core; `benchmarks.tune` finds out).
"""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve import answer, encode
from segserve.batch_bytes import do_not_fit
from segserve.decode_pool import DECODE_TIMEOUT_S, DecodePool
from segserve.engines import Logits
from segserve.errors import Overloaded, RequestError
from segserve.inference import Inference
from segserve.reply import Reply
from segserve.request import CONTENT_TYPES, Request, Wanted, parse
from segserve.segmenter import Prepared, Segmenter
from segserve.spec import artefact_name

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    """A request on its way; `error` set means that its way has ended."""

    request: Request
    wanted: Wanted | None = None
    prepared: Prepared | None = None
    logits_chw: Logits | None = None
    body: bytes = b""
    batch_size: int = 0
    class_shares: NDArray[np.float64] | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[step] = 1e3 * (time.perf_counter() - started)


class Service:
    """Answers batches of requests with one Segmenter.

    max_response_bytes: a longer body becomes an error of the request (413), because the server around this
    would not survive sending it.
    threads: how many images of a batch are decoded, or made into answers, at a time.
    decode_timeout_s: how long one image may take to decode; then its request fails (413).
    """

    def __init__(
        self,
        segmenter: Segmenter,
        max_response_bytes: int,
        threads: int = 1,
        decode_timeout_s: float = DECODE_TIMEOUT_S,
    ) -> None:
        self._segmenter = segmenter
        self._max_response_bytes = max_response_bytes
        self._inference = Inference(segmenter)
        self._decoders = DecodePool(threads, decode_timeout_s)
        self._pool = ThreadPoolExecutor(threads, "image") if threads > 1 else None

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply for each request, in their order: an error of ours is that request's 500.

        Raises: EngineBroken when the engine can do nothing any more; nothing else.
        """
        started, now_s = time.perf_counter(), time.time()
        jobs = self._decode(requests)
        self._infer([job for job in jobs if job.error is None])
        self._each(jobs, self._finish)
        for position in do_not_fit([len(job.body) for job in jobs]):
            self._refuse(jobs[position])
        total_ms = 1e3 * (time.perf_counter() - started)
        return [self._reply(job, job.request.queued_ms(now_s), total_ms) for job in jobs]

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Go the whole way once for each format and batch size: compile the kernels, let the engine allocate.

        Raises: whatever the engine raises, so that a version that can't work never becomes ready.
        """
        pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")  # what most clients send
        prepared = self._segmenter.prepare(file.getvalue())
        for batch_size in batch_sizes:
            self._segmenter.logits([prepared] * batch_size)
        for name in CONTENT_TYPES:
            [reply] = self.answer([Request({"body": file.getvalue(), "format": name})])
            if reply.status != 200:
                raise RuntimeError(f"warm-up failed for format {name}: {reply.body.decode()}")

    def _each(self, jobs: Sequence[_Job], step: Callable[[_Job], None]) -> None:
        """`step` for every job; a lone one is not worth waking a thread for."""
        run: Callable[..., Iterator[None]] = map
        if self._pool is not None and len(jobs) > 1:
            run = self._pool.map
        for _ in run(self._attempt, jobs, [step] * len(jobs)):
            pass

    def _attempt(self, job: _Job, step: Callable[[_Job], None]) -> None:
        if job.error is not None:
            return
        try:
            step(job)
        except RequestError as error:
            job.error = error
        except MemoryError:
            job.error = Overloaded(
                "the server has not enough memory for the image at the moment; send it again later",
                retry_after_s=DECODE_TIMEOUT_S,  # by then, what others decode now is done or given up
            )
        except Exception as error:
            logger.exception("request failed in %s", step.__name__.strip("_"))
            job.error = error

    def _decode(self, requests: Sequence[Request]) -> list[_Job]:
        def decoded(request: Request) -> _Job:
            job = _Job(request)
            self._attempt(job, self._prepare)
            return job

        # a job that is over its time is made anew: its thread may still write into the old one
        return [
            result if isinstance(result, _Job) else _Job(request, error=result)
            for request, result in zip(requests, self._decoders.map(decoded, requests), strict=True)
        ]

    def _prepare(self, job: _Job) -> None:
        job.wanted = parse(job.request, self._segmenter.spec.classes)
        with job.timed("decode"):
            job.prepared = self._segmenter.prepare(
                job.wanted.image, with_photo=job.wanted.format == "overlay"
            )

    def _infer(self, jobs: Sequence[_Job]) -> None:
        outcomes = self._inference([job.prepared for job in jobs if job.prepared is not None])
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.logits_chw, job.error, job.batch_size = outcome.logits_chw, outcome.error, outcome.batch_size
            if outcome.batch_size:
                job.timings_ms["engine"] = outcome.engine_ms

    def _finish(self, job: _Job) -> None:
        assert job.wanted is not None and job.prepared is not None and job.logits_chw is not None  # noqa: PT018
        with job.timed("mask"):
            labels = self._segmenter.labels(job.logits_chw, job.prepared)
        job.class_shares = encode.sampled_shares(labels, len(self._segmenter.spec.classes))
        timings_ms = dict(job.timings_ms)
        with job.timed("encode"):
            job.body = answer.body(
                job.wanted.format,
                labels,
                job.prepared.photo,
                self._segmenter.spec,
                class_ids=job.wanted.class_ids,
                timings_ms=timings_ms,
                max_bytes=self._max_response_bytes,
                gzipped=_packs(job.wanted),
            )

    @staticmethod
    def _refuse(job: _Job) -> None:
        """It is fine by itself, but would keep the others of the batch waiting: in another company it goes out."""
        assert job.wanted is not None
        advice = ", or ".join(["send it again", *answer.smaller(job.wanted.format)])
        job.error = Overloaded(
            f"the answer as {job.wanted.format} has {len(job.body):,} bytes, too many to go out beside the other large "
            f"answers of its batch; {advice}",
            retry_after_s=1,
        )
        job.body = b""

    def _reply(self, job: _Job, queued_ms: float | None, total_ms: float) -> Reply:
        timings_ms = _all_timings(queued_ms, job.timings_ms, total_ms)
        status, content_type, body = self._outcome(job)
        headers = self._headers(job, timings_ms)
        photo_hw = None
        if job.prepared is not None:
            photo_hw = job.prepared.geometry.photo_height, job.prepared.geometry.photo_width
        shares = job.class_shares if status == 200 else None
        return Reply(status, content_type, body, headers, timings_ms, job.batch_size, photo_hw, shares)

    @staticmethod
    def _outcome(job: _Job) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        if job.error is None:
            assert job.wanted is not None
            return 200, CONTENT_TYPES[job.wanted.format], job.body
        if isinstance(job.error, RequestError):
            status, error_type, message = job.error.status, type(job.error).__name__, str(job.error)
        else:
            status, error_type = 500, "InternalError"
            message = "an error of the server, not of your request; it was logged, please report it"
        return status, answer.ERROR_CONTENT_TYPE, answer.error_body(error_type, message)

    def _headers(self, job: _Job, timings_ms: Mapping[str, float]) -> dict[str, str]:
        engine = self._segmenter.engine
        headers = {
            "server-timing": ", ".join(f"{step};dur={ms:.3f}" for step, ms in timings_ms.items()),
            "x-segserve-version": self._segmenter.spec.version,
            "x-segserve-engine": artefact_name(engine.name, engine.precision),
            "x-segserve-device": engine.device,
            "x-segserve-batch-size": str(job.batch_size),
            "x-segserve-request-id": job.request.id(),  # the server may overwrite x-request-id by its own
        }
        if isinstance(job.error, Overloaded):
            headers["retry-after"] = str(math.ceil(job.error.retry_after_s))
        if job.error is None and job.wanted is not None and _packs(job.wanted):
            headers["content-encoding"] = "gzip"
        return headers


def _all_timings(queued_ms: float | None, steps_ms: Mapping[str, float], total_ms: float) -> dict[str, float]:
    """With `batch_wait`, which is what the image's own steps leave of the total: it waited for others of its batch."""
    queue = {} if queued_ms is None else {"queue": queued_ms}
    waited_ms = max(0.0, total_ms - sum(steps_ms.values()))
    return {**queue, **steps_ms, "batch_wait": waited_ms, "total": total_ms}


def _packs(wanted: Wanted) -> bool:
    """The other formats are packed already."""
    return wanted.gzip and wanted.format == "npy"
