"""What a precision may cost: agreement, IoU of every class, none vanished."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest

from segserve import class_costs
from segserve.parity_report import failures
from segserve.parity_row import Row
from tests.unit.test_parity import rows as exact_rows

CLASS_STD = {"wall": 2.0, "floor": 1.0, "kettle": 0.5}


def rows(class_errors: Mapping[str, float] | None = None, **changes: Any) -> list[Row]:
    """As of an exact precision, with the errors of every class; the changes go to the first row."""
    errors = {"wall": 0.04, "floor": 0.01, "kettle": 0.01} if class_errors is None else class_errors
    return [dataclasses.replace(row, class_errors=errors) for row in exact_rows(**changes)]


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
    assert failures(held, [], "int8", 1.0, accuracy(), CLASS_STD) == []
    found = failures(held, [], "bf16", 1.0, accuracy(), CLASS_STD)
    assert found == [
        "rendered rooms: 99.500 % (expected 99.7 %) of the labels agree",
        "rendered rooms: class floor loses 0.50 points of IoU, allowed 0.3",
    ]


def test_a_class_that_is_found_nowhere_any_more_has_vanished() -> None:
    gone = {"true_pixels": 100, "checkpoint": [0, 4000, 3000], "artefact": [0, 1000, 0]}
    (found,) = failures(rows(), [], "int8", 1.0, accuracy(plant=gone), CLASS_STD)
    assert found == "rendered rooms: vanished: plant"


def test_a_lower_precision_that_was_not_measured_does_not_pass() -> None:
    assert failures(rows(), [], "int8", 1.0, None, CLASS_STD) == [
        "what the precision costs each class was not measured"
    ]
    (found,) = failures(rows(), [], "int8", 1.0, accuracy())
    assert found.startswith("how far the logits of each class are off was not measured")
    unmeasured = [*rows()[:-1], dataclasses.replace(rows()[-1], class_errors={"wall": 0.0, "floor": 0.0})]
    (found,) = failures(unmeasured, [], "int8", 1.0, accuracy(), CLASS_STD)
    assert found == "the logits of class kettle are off by nan times what they vary by, allowed 0.5"


@pytest.mark.parametrize("precision", ["int8", "bf16", "fp16"])
def test_a_class_that_no_picture_shows_is_not_lost_unseen(precision: str) -> None:
    """Kettles are in no label, so neither agreement nor IoU can tell."""
    costs = accuracy(agreeing=10000) | {"classes": {"wall": accuracy()["classes"]["wall"]}}
    found = failures(rows({"wall": 0.0, "floor": 0.01, "kettle": 0.09}), [], precision, 1.0, costs, CLASS_STD)
    assert found == ["the logits of class kettle are off by 0.60 times what they vary by, allowed 0.5"]
    assert failures(rows(), [], precision, 1.0, costs, CLASS_STD) == []


def test_logits_that_hardly_vary_need_not_be_exact() -> None:
    noise = class_costs.noise([{"flat": 0.04}, {"flat": 0.0}], {"flat": 1e-6}, 4.0)
    assert noise == {"flat": pytest.approx(math.sqrt(0.02) / 0.4)}


def test_an_engine_of_one_size_is_compared_at_that() -> None:
    few = [row for row in rows() if row.kind == "as served" or row.height == rows()[0].height]
    assert failures(few, [], "int8", 1.0, accuracy(), CLASS_STD, fixed_size=True) == []
    assert len(failures(few, [], "int8", 1.0, accuracy(), CLASS_STD)) == 1
