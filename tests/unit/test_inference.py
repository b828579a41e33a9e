"""Whatever breaks the engine on a batch costs only the image that breaks it, and nothing is made into a wrong mask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from segserve.engines import Logits, memory
from segserve.errors import EngineBroken, Overloaded
from segserve.geometry import Geometry
from segserve.inference import REMEMBERED_S, RETRY_AFTER_S, Inference, Outcome
from segserve.resize import PAD_VALUE
from segserve.segmenter import Prepared, Segmenter
from tests.specs import make_spec

NUM_CLASSES = 3


class NumberEngine:
    """The logits of an image are the number that its pixels hold; `breaks` may raise for a batch of numbers."""

    name, device, provider, precision = "numpy", "cpu", "none", "fp32"

    def __init__(self, breaks: Callable[[list[int]], None] = lambda _: None) -> None:
        self.breaks = breaks
        self.calls: list[list[int]] = []
        self.make: Callable[[NDArray[np.float32]], Logits] = lambda logits: logits

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> Logits:
        numbers = [int(image[0, 0, 0]) for image in images_nhwc]
        self.calls.append(numbers)
        self.breaks(numbers)
        logits = np.empty((len(numbers), NUM_CLASSES, 8, 8), np.float32)
        logits[:] = np.reshape(numbers, (-1, 1, 1, 1))
        return self.make(logits)


def prepared(number: int) -> Prepared:
    return Prepared(np.full((64, 64, 3), number, np.uint8), Geometry.letterbox(64, 64, 64, 64))


def images(*numbers: int) -> list[Prepared]:
    return [prepared(number) for number in numbers]


def seen(outcomes: Sequence[Outcome]) -> list[int | str]:
    """The number in the logits, or the error's message."""
    return [
        str(outcome.error) if outcome.logits_chw is None else int(outcome.logits_chw[0, 0, 0])
        for outcome in outcomes
    ]


def inference_of(engine: NumberEngine, clock: Callable[[], float] = lambda: 0.0) -> Inference:
    return Inference(Segmenter(make_spec(), engine), clock)


def fails_with(culprit: int) -> Callable[[list[int]], None]:
    def breaks(numbers: list[int]) -> None:
        if culprit in numbers:
            raise RuntimeError("bad kernel")

    return breaks


def fits(most: int, error: Callable[[], Exception]) -> Callable[[list[int]], None]:
    def breaks(numbers: list[int]) -> None:
        if len(numbers) > most:
            raise error()

    return breaks


def test_a_batch_is_one_call() -> None:
    engine = NumberEngine()
    outcomes = inference_of(engine)(images(1, 2, 3))
    assert seen(outcomes) == [1, 2, 3]
    assert engine.calls == [[1, 2, 3]]
    assert [outcome.batch_size for outcome in outcomes] == [3, 3, 3]
    assert inference_of(engine)([]) == []


def test_halves_find_the_one_that_fails() -> None:
    engine = NumberEngine(fails_with(6))
    outcomes = inference_of(engine)(images(1, 2, 3, 4, 5, 6, 7, 8))
    assert seen(outcomes) == [1, 2, 3, 4, 5, "bad kernel", 7, 8]
    assert engine.calls[1:] == [[1, 2, 3, 4], [5, 6, 7, 8], [5, 6], [5], [6], [7, 8]]
    assert [outcome.batch_size for outcome in outcomes] == [4, 4, 4, 4, 1, 0, 2, 2]


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered_for_a_while() -> None:
    now = [0.0]
    engine = NumberEngine(fits(2, lambda: RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")))
    infer = inference_of(engine, lambda: now[0])
    assert seen(infer(images(1, 2, 3, 4, 5, 6, 7, 8))) == [1, 2, 3, 4, 5, 6, 7, 8]
    sizes = [len(call) for call in engine.calls]
    assert sizes[:3] == [8, 4, 2]
    engine.calls.clear()
    now[0] = REMEMBERED_S - 1
    assert seen(infer(images(1, 2, 3, 4, 5))) == [1, 2, 3, 4, 5]
    assert [len(call) for call in engine.calls] == [2, 2, 1]  # without failing first
    engine.calls.clear()
    now[0] = 2 * REMEMBERED_S
    engine.breaks = lambda _: None
    assert seen(infer(images(1, 2, 3, 4))) == [1, 2, 3, 4]
    assert [len(call) for call in engine.calls] == [4]  # memory may be there again


def test_other_errors_make_no_batch_smaller() -> None:
    engine = NumberEngine(fails_with(2))
    infer = inference_of(engine)
    infer(images(1, 2, 3, 4))
    engine.calls.clear()
    infer(images(1, 3, 5, 7))
    assert engine.calls == [[1, 3, 5, 7]]


def test_one_image_gets_a_second_try_once_memory_was_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[bool] = []
    monkeypatch.setattr(memory, "free", lambda: freed.append(True))

    def breaks(_: list[int]) -> None:
        if not freed:
            raise MemoryError("Unable to allocate 3 GiB")

    assert seen(inference_of(NumberEngine(breaks))(images(5))) == [5]


def test_one_image_that_still_does_not_fit_may_come_again() -> None:
    """But what else breaks an engine is a fault, also behind a first try for which memory was short."""
    engine = NumberEngine()
    errors: list[Exception] = []

    def breaks(numbers: list[int]) -> None:
        if numbers == [5]:
            raise errors.pop(0)

    engine.breaks = breaks
    shortage = MemoryError("Unable to allocate 3 GiB")
    errors[:] = [MemoryError(), shortage]
    [outcome] = inference_of(engine)(images(5))
    assert isinstance(outcome.error, Overloaded)
    assert str(outcome.error).startswith("the engine has not enough memory for the image at the moment; send")
    assert (outcome.error.retry_after_s, outcome.error.__cause__) == (RETRY_AFTER_S, shortage)
    errors[:] = [MemoryError(), RuntimeError("bad kernel")]
    assert seen(inference_of(engine)(images(5))) == ["bad kernel"]


def test_an_engine_that_fails_on_everything_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(_: list[int]) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine = NumberEngine(dead)
    with pytest.raises(EngineBroken, match="fails on every image: CUDA error: an illegal"):
        inference_of(engine)(images(5, 6))
    assert engine.calls[-1] == [PAD_VALUE]  # no photo's fault
    exhausted = NumberEngine(fits(0, lambda: MemoryError("not even one")))
    with pytest.raises(EngineBroken, match="not even one"):
        inference_of(exhausted)(images(5))
    spoilt = NumberEngine()
    spoilt.make = lambda logits: logits * np.float32(np.nan)
    with pytest.raises(EngineBroken, match="not a number"):
        inference_of(spoilt)(images(5))


def test_photos_that_break_the_engine_do_not_make_it_a_broken_one() -> None:
    engine = NumberEngine(fails_with(5))
    infer = inference_of(engine)
    assert seen(infer(images(5, 5))) == ["bad kernel"] * 2
    assert engine.calls[-1] == [PAD_VALUE]
    assert seen(infer(images(1))) == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_logits_that_are_not_finite_are_the_error_of_their_image(value: float, dtype: type) -> None:
    engine = NumberEngine()

    def make(logits: NDArray[np.float32]) -> Logits:
        logits[1, 2, 3, 4] = value
        made: Logits = logits.astype(dtype)
        return made

    engine.make = make
    first, spoilt, last = inference_of(engine)(images(1, 2, 3))
    assert seen([first, last]) == [1, 3]
    assert spoilt.logits_chw is None
    assert "not a number" in str(spoilt.error)
    assert engine.calls == [[1, 2, 3]]


def test_large_logits_are_fine() -> None:
    engine = NumberEngine()
    engine.make = lambda logits: np.full_like(logits, -60_000).astype(np.float16)
    assert seen(inference_of(engine)(images(1))) == [-60_000 // 1]
    engine.make = lambda logits: np.full_like(logits, 3e38)
    assert inference_of(engine)(images(1))[0].error is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits: logits[:, :2],
        lambda logits: logits[:-1],
        lambda logits: logits[:, :, 0],
        lambda logits: logits[:, :, :, :0],
        lambda logits: np.repeat(logits, 2, axis=2),
    ],
    ids=["classes", "images", "dimensions", "nothing", "size"],
)
def test_logits_of_another_shape_are_never_used(wrong: Callable[[Logits], Logits]) -> None:
    engine = NumberEngine()
    infer = inference_of(engine)
    assert seen(infer(images(1, 2))) == [1, 2]
    engine.make = wrong
    with pytest.raises(EngineBroken, match=r"expected \(1, 3, 8, 8\)"):
        infer(images(1, 2))


def test_the_stack_is_logged_once_for_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    infer = inference_of(NumberEngine(fails_with(1)))
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            infer(images(1))
    assert caplog.text.count("Traceback") == 1
    assert caplog.text.count("RuntimeError: bad kernel (stack above)") == 4


# --- what counts as too little memory -------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype(np.uint8)),  # type: ignore[attr-defined]
        OutOfMemoryError("CUDA error"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cudaMalloc: out of memory (cudaErrorMemoryAllocation)"),
        RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        RuntimeError("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 2097152"),
        RuntimeError("Available memory of 1 is smaller than requested bytes of 2"),
        RuntimeError("TensorRT did not run the batch: [executionContext.cpp] OutOfMemory"),
        RuntimeError("Exception from src/inference/infer_request.cpp:223: std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
)  # fmt: skip
def test_errors_that_say_that_memory_was_not_enough(error: Exception) -> None:
    assert memory.is_exhausted(error)
    wrapped = RuntimeError("the engine failed")
    wrapped.__cause__ = error
    assert memory.is_exhausted(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("shapes do not match"),
        IndexError("list index out of range"),
    ],
)
def test_errors_that_have_another_reason(error: Exception) -> None:
    assert not memory.is_exhausted(error)


def test_freeing_harms_nothing() -> None:
    memory.free()
