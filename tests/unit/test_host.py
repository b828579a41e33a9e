"""What a report says in JSON: numbers that any reader takes."""

from __future__ import annotations

import json
import math

from benchmarks.host import json_of


def test_what_is_no_number_is_null_wherever_it_stands() -> None:
    document = {
        "p50 ms": math.nan,
        "rows": [{"s": (2.0, math.inf, -math.inf)}],
        "whole": 3,
        "text": "NaN",
        "no": None,
    }
    text = json_of(document)
    assert "NaN," not in text
    assert "Infinity" not in text
    assert json.loads(text) == {
        "p50 ms": None, "rows": [{"s": [2.0, None, None]}], "whole": 3, "text": "NaN", "no": None
    }  # fmt: skip
    assert math.isnan(document["p50 ms"])  # type: ignore[arg-type]  # the report itself is as it was


def test_it_can_be_indented_for_people() -> None:
    assert json_of({"a": [1]}, indent=1) == '{\n "a": [\n  1\n ]\n}'
