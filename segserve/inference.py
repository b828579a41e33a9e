"""A batch through the engine, where whatever breaks it costs only the image that breaks it.

The engine is called once for all images. If that fails they are halved until the call succeeds or one image is left,
which is then the culprit. Where memory was not enough, it is given back first, and the number of images that did fit is
the most for a minute: otherwise every batch would fail once before it fits. A lone image that does not fit even then is
no fault of ours: the memory is with others at the moment, and its client is told to come again (503).

An engine that fails on every image of a batch is asked for a plain grey one. If it fails on that too, the engine is at
fault and not the photos (a GPU that fell over fails until its process ends), and every further answer would be a 500.
So it is with one that has no memory for the grey one either: what this process holds of it is free once it has ended.

Logits that are not finite, or not of the spec's shape, would be made into a mask that looks like any other. They are
the error of their image. Looking at them costs 0.01 ms for the demo model, 0.06 ms for 150 classes of 60 x 60.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from segserve.engines import Logits, memory
from segserve.errors import EngineBroken, EngineError, Overloaded
from segserve.geometry import Geometry
from segserve.resize import PAD_VALUE
from segserve.segmenter import Prepared, Segmenter

logger = logging.getLogger(__name__)

REMEMBERED_S: Final = 60.0
"""How long a batch that did not fit keeps the next ones small."""
RETRY_AFTER_S: Final = 10.0
"""When an image that did not fit may come again: by then, what others work on now is done."""


@dataclass(frozen=True)
class Outcome:
    """Of one image: its logits (num_classes, h, w) or what went wrong, and the engine call that it was in."""

    logits_chw: Logits | None = None
    error: Exception | None = None
    batch_size: int = 0
    engine_ms: float = 0.0


class Inference:
    """Calls one Segmenter's engine. Not for several threads at a time."""

    def __init__(self, segmenter: Segmenter, clock: Callable[[], float] = time.monotonic) -> None:
        self._segmenter, self._clock = segmenter, clock
        self._fits: int | None = None
        self._forget_at = 0.0
        self._map_size: tuple[int, ...] | None = None
        self._logged: set[str] = set()

    def __call__(self, prepared: Sequence[Prepared]) -> list[Outcome]:
        """One outcome for each image, in their order. Raises: EngineBroken if the engine can do nothing any more."""
        if self._fits is not None and self._clock() >= self._forget_at:
            self._fits = None
        step = self._fits or max(1, len(prepared))
        pieces = (prepared[at : at + step] for at in range(0, len(prepared), step))
        outcomes = [outcome for piece in pieces for outcome in self._attempt(piece)]
        if outcomes and all(outcome.error is not None for outcome in outcomes):
            self._require_working()
        return outcomes

    def _require_working(self) -> None:
        size = self._segmenter.spec.input
        grey = np.full((size.height, size.width, 3), PAD_VALUE, np.uint8)
        geometry = Geometry.letterbox(size.height, size.width, size.height, size.width)
        [outcome] = self._attempt([Prepared(grey, geometry)])
        if outcome.error is not None:
            reason = outcome.error.__cause__ if isinstance(outcome.error, Overloaded) else outcome.error
            raise EngineBroken(f"the engine fails on every image: {reason}") from reason

    def _attempt(self, piece: Sequence[Prepared]) -> list[Outcome]:
        try:
            return self._call(piece)
        except Exception as error:
            exhausted = memory.is_exhausted(error)
            self._log(f"the engine failed on a batch of {len(piece)}", error)
            failed = error if len(piece) == 1 and not exhausted else None
        # outside of the except: its traceback keeps the batch's arrays alive
        if exhausted:
            memory.free()
        if failed is not None:
            return [Outcome(error=failed)]
        if len(piece) == 1:
            return [self._once_more(piece)]
        if exhausted:
            self._fits, self._forget_at = max(1, len(piece) // 2), self._clock() + REMEMBERED_S
        middle = len(piece) // 2
        return self._attempt(piece[:middle]) + self._attempt(piece[middle:])

    def _once_more(self, piece: Sequence[Prepared]) -> Outcome:
        """One image, now that memory was given back."""
        try:
            return self._call(piece)[0]
        except Exception as error:
            self._log("the engine failed on one image again", error)
            return Outcome(error=_no_memory(error) if memory.is_exhausted(error) else error)

    def _call(self, piece: Sequence[Prepared]) -> list[Outcome]:
        """Raises: whatever the engine raises; EngineError for logits of another shape."""
        started = time.perf_counter()
        logits_nchw = self._segmenter.logits(piece)
        self._require_shape(logits_nchw, len(piece))
        engine_ms = 1e3 * (time.perf_counter() - started)
        return [self._checked(logits_chw, len(piece), engine_ms) for logits_chw in logits_nchw]

    def _require_shape(self, logits_nchw: Logits, count: int) -> None:
        shape, num_classes = logits_nchw.shape, len(self._segmenter.spec.classes)
        size = self._map_size or shape[2:]
        if shape != (count, num_classes, *size) or len(shape) != 4 or not logits_nchw.size:
            raise EngineError(
                f"the engine gave logits of shape {shape}, expected "
                f"({count}, {num_classes}, {', '.join(map(str, self._map_size or 'hw'))}); package the model anew"
            )
        self._map_size = size  # one network input, one size of its logits

    def _checked(self, logits_chw: Logits, batch_size: int, engine_ms: float) -> Outcome:
        if _all_finite(logits_chw):
            return Outcome(logits_chw, None, batch_size, engine_ms)
        error = EngineError("the engine gave logits that are infinite or not a number")
        self._log("no mask was made", error)
        return Outcome(error=error, batch_size=batch_size, engine_ms=engine_ms)

    def _log(self, what: str, error: Exception) -> None:
        """With its stack the first time; an engine that fails on each batch must not fill the disk."""
        kind = f"{type(error).__name__}: {str(error)[:60]}"
        if kind in self._logged:
            logger.error("%s: %s (stack above)", what, kind)
        else:
            self._logged.add(kind)
            logger.error("%s", what, exc_info=error)


def _no_memory(error: Exception) -> Overloaded:
    """What its client is told. The reason stays with it, for the worker's end if there is no memory at all."""
    told = Overloaded(
        "the engine has not enough memory for the image at the moment; send it again later",
        retry_after_s=RETRY_AFTER_S,
    )
    told.__cause__ = error
    return told


def _all_finite(logits: Logits) -> bool:
    if (
        logits.dtype == np.float16
    ):  # numpy has no fast way; all bits of the exponent are set in infinity and NaN
        return bool((logits.view(np.uint16) & 0x7C00).max() < 0x7C00)
    return bool(np.isfinite(logits).all())
