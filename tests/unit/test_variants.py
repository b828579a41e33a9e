"""Which engines are made for what was asked, and what a build goes on without."""

from __future__ import annotations

from typing import Any

import pytest

from export import verdict
from export.variants import NAMES, variants
from segserve.errors import UsageError
from tests.specs import make_spec


def test_auto_has_no_precision() -> None:
    """It was taken for auto in one place and for an engine in the next, after all files were made."""
    with pytest.raises(
        UsageError, match=r"--engine 'auto-fp32': choose auto or one of onnx, torchscript, "
    ) as refused:
        variants("auto-fp32")
    assert all(name in str(refused.value) for name in NAMES)


@pytest.mark.parametrize("engine", ["torchscript", "torchscript-fp32"])
def test_float32_may_be_named(engine: str) -> None:
    made, left_out = variants(engine)
    assert ([variant.name for variant in made], left_out) == (["onnx", "torchscript"], {})


@pytest.mark.parametrize(
    ("name", "asked", "raised", "spare"),
    [
        ("onnx", "onnx", True, False),
        ("onnx", "auto", True, False),
        ("onnx", "torchscript", True, False),
        ("torchscript", "onnx", True, True),
        ("torchscript", "onnx", False, False),  # it runs, and answers otherwise: the conversion is wrong
        ("torchscript", "auto", True, True),
        ("torchscript", "auto", False, False),
        ("torchscript", "torchscript-fp32", True, False),
        ("torchscript", "torchscript-fp16", True, True),
        ("onnx-int8", "auto", False, True),
        ("onnx-int8", "onnx-int8", True, False),
    ],
)
def test_what_a_build_goes_on_without(name: str, asked: str, raised: bool, spare: bool) -> None:
    assert verdict.spare(name, asked, raised=raised) is spare


def test_what_raised_is_left_out_of_the_spec_and_what_differs_is_not() -> None:
    def checked(failures: list[str], problems: list[str]) -> dict[str, Any]:
        fine = {"name": "onnx", "passed": True, "failures": [], "problems": []}
        other = {"name": "torchscript", "passed": False, "failures": failures, "problems": problems}
        return {"artefacts": [fine, other], "spec_failures": [], "passed": False}

    left_out: dict[str, str] = {}
    raised = checked(["out of memory"], ["out of memory"])
    assert verdict.leave_out(raised, left_out, "onnx") == {}
    assert (raised["passed"], left_out) == (True, {"torchscript": "out of memory"})
    assert [artefact.name for artefact in verdict.without(make_spec(), left_out).artefacts] == ["onnx"]
    differs = checked(["a logit is off"], [])
    assert verdict.leave_out(differs, {}, "onnx") == {}
    assert differs["passed"] is False
