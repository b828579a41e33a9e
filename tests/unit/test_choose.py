"""The table of engines: what is best by which objective, and what becomes of one that failed."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from export.choose import MIN_ROUNDS, Objective, Timing, batch_size, choice, measure
from segserve.engines import Engine

EAGER = Timing({1: 100.0, 8: 800.0})
TIMINGS = {
    "onnx": Timing({1: 50.0, 8: 500.0}),
    "openvino": Timing({1: 60.0, 8: 240.0}),
    "openvino-int8": Timing({1: 10.0, 8: 80.0}),
}


@pytest.mark.parametrize(
    ("objective", "order"),
    [
        ("throughput", ["openvino", "onnx", "openvino-int8"]),
        ("latency", ["onnx", "openvino", "openvino-int8"]),
    ],
)
def test_the_best_comes_first_and_what_failed_last(objective: Objective, order: list[str]) -> None:
    table = choice(TIMINGS, EAGER, {"openvino-int8": "floor lost"}, {"tensorrt": "no GPU"}, objective)
    assert [row["name"] for row in table["table"]] == order
    assert [row["passed"] for row in table["table"]] == [True, True, False]
    assert table["table"][-1]["reason"] == "floor lost"
    assert table["left_out"] == {"tensorrt": "no GPU"}


def test_speed_is_that_of_the_best_batch_size_and_counted_against_eager() -> None:
    row = choice({"openvino": TIMINGS["openvino"]}, EAGER, {}, {}, "throughput")["table"][0]
    assert row["images_per_s"] == pytest.approx(8 / 0.240, abs=1e-3)
    assert row["ratio_to_eager"] == pytest.approx(800 / 240, abs=0.01)


def test_engines_take_turns_at_every_batch_size() -> None:
    calls: list[tuple[str, int]] = []

    class Fake:
        device, provider, precision = "cpu", "none", "fp32"

        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
            assert images_nhwc.shape[1:] == (40, 48, 3)
            calls.append((self.name, len(images_nhwc)))
            return np.zeros((len(images_nhwc), 2, 5, 6), np.float32)

    timings = measure({"a": Fake("a"), "b": Fake("b")}, (40, 48), (1, 3))
    assert {name: set(timing.latency_ms) for name, timing in timings.items()} == {"a": {1, 3}, "b": {1, 3}}
    timed = calls[4:]
    assert timed[:4] == [("a", 1), ("a", 3), ("b", 1), ("b", 3)]
    assert len(timed) >= 4 * MIN_ROUNDS


def test_an_engine_that_raises_is_dropped_with_what_it_said() -> None:
    def answer(images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros((len(images_nhwc), 2, 5, 6), np.float32)

    def small_batches_only(images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(images_nhwc) > 1:
            raise MemoryError("no room for 3")
        return answer(images_nhwc)

    engines = cast(dict[str, Engine], {"good": answer, "small": small_batches_only})
    dropped: dict[str, str] = {}
    timings = measure(engines, (40, 48), (1, 3), dropped=dropped)
    assert timings.keys() == {"good"}
    assert dropped == {"small": "MemoryError: no room for 3"}
    with pytest.raises(MemoryError):
        measure(engines, (40, 48), (1, 3))


def test_a_larger_batch_is_taken_only_where_it_pays() -> None:
    timings = {
        "flat": Timing({1: 50.0, 8: 396.0}),  # 1 % faster with 8
        "gpu": Timing({1: 5.0, 8: 10.0, 32: 39.0}),  # 200, 800, 821 images/s
    }
    table = choice(timings, EAGER, {}, {}, "throughput")
    assert batch_size(table, "flat") == 1
    assert batch_size(table, "gpu") == 8
    assert batch_size(table, "unknown") is None
    assert batch_size({}, "gpu") is None
