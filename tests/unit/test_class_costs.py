"""What a precision may cost: agreement, IoU of every class, none vanished."""

from __future__ import annotations

from typing import Any

import pytest

from export import class_costs
from export.report import failures
from tests.unit.test_parity import rows


def accuracy(agreeing: int = 9950, **changes: dict[str, Any]) -> dict[str, Any]:
    """Two classes: wall holds, floor loses half a point of IoU."""
    classes: dict[str, Any] = {
        "wall": {"true_pixels": 6000, "checkpoint": [5000, 10000, 6000], "artefact": [5000, 10000, 6000]},
        "floor": {"true_pixels": 4000, "checkpoint": [3000, 10000, 4000], "artefact": [2950, 10000, 4000]},
    }
    return {"pixels": 10000, "agreeing": agreeing, "classes": classes | changes}


def test_drops_are_points_of_iou_of_classes_that_are_seen_well_enough() -> None:
    rare = {"true_pixels": 10, "checkpoint": [10, 10, 10], "artefact": [0, 10, 5]}
    drops = class_costs.drops(accuracy(plant=rare))
    assert drops == {"wall": 0.0, "floor": pytest.approx(0.5)}


def test_int8_may_lose_half_a_point_where_16_bits_may_not() -> None:
    held = rows(max_abs_error=0.5)
    assert failures(held, [], "int8", 1.0, accuracy()) == []
    found = failures(held, [], "bf16", 1.0, accuracy())
    assert found == [
        "rendered rooms: 99.500 % (expected 99.7 %) of the labels agree",
        "rendered rooms: class floor loses 0.50 points of IoU, allowed 0.3",
    ]


def test_a_class_that_is_found_nowhere_any_more_has_vanished() -> None:
    gone = {"true_pixels": 100, "checkpoint": [0, 4000, 3000], "artefact": [0, 1000, 0]}
    (found,) = failures(rows(), [], "int8", 1.0, accuracy(plant=gone))
    assert found == "rendered rooms: vanished: plant"


def test_a_lower_precision_that_was_not_measured_does_not_pass() -> None:
    assert failures(rows(), [], "int8", 1.0) == ["what the precision costs each class was not measured"]


def test_an_engine_of_one_size_is_compared_at_that() -> None:
    few = [row for row in rows() if row.kind == "as served" or row.height == rows()[0].height]
    assert failures(few, [], "int8", 1.0, accuracy(), fixed_size=True) == []
    assert len(failures(few, [], "int8", 1.0, accuracy())) == 1
