"""NumPy's numbers are read where torch reads weights only, and nothing else of NumPy's is."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch

from training.foreign_numbers import NUMBERS, Kind, NotANumberUnpicklingError, scalar

NEW, OLD = b"numpy._core.multiarray", b"numpy.core.multiarray"


def saved(value: object, *, old: bool = False) -> bytes:
    torch.save({"value": value}, file := io.BytesIO(), _use_new_zipfile_serialization=False)
    assert NEW in file.getvalue() or not old
    return file.getvalue().replace(NEW, OLD) if old else file.getvalue()


def loaded(content: bytes) -> Any:
    with torch.serialization.safe_globals(NUMBERS):
        return torch.load(io.BytesIO(content), weights_only=True)["value"]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.7), np.float32(0.25), np.float16(-2), np.int64(-3), np.int8(-1), np.uint8(200), np.bool_(True),
        np.complex64(1 + 2j), np.array([1.5], ">f8")[0], np.array([258], ">i2")[0],
    ],
)  # fmt: skip
def test_numbers(value: Any, old: bool) -> None:
    got = loaded(saved(value, old=old))
    assert (got, type(got)) == (value.item(), type(value.item()))
    with pytest.raises(Exception, match="Unsupported global"):  # as it is without
        torch.load(io.BytesIO(saved(value)), weights_only=True)


def test_the_order_of_bytes() -> None:
    big = Kind("i2", False, True)
    big.__setstate__((3, ">", None, None, None, -1, -1, 0))
    assert scalar(big, b"\x01\x02") == 258
    assert scalar(Kind("i2", False, True), b"\x01\x00") == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.str_("a"), "numpy.dtype of 'U1'"),
        (np.void(b"ab"), "numpy.dtype of 'V2'"),
        (np.datetime64("2020-01-01"), "numpy.dtype of 'M8'"),
        (np.dtype("O"), "numpy.dtype of 'O8'"),
        (np.array([1.0]), "numpy._core.multiarray._reconstruct"),
        (np.float64, "numpy.float64"),
    ],
)
def test_what_is_no_number(value: object, said: str) -> None:
    with pytest.raises(Exception, match=re.escape(said)) as refused:
        loaded(saved(value))
    assert "Unpickling" in type(refused.value).__name__


def test_a_state_that_would_reach_other_memory_does_nothing() -> None:
    """NumPy's own dtype takes it: flags that make addresses of the bytes."""
    state = (3, "<", None, None, None, -1, -1, 255)
    (real := np.dtype("f8", copy=True)).__setstate__(state)  # type: ignore[attr-defined]
    assert real.hasobject
    (kind := Kind("f8", False, True)).__setstate__(state)
    assert scalar(kind, np.float64(0.7).tobytes()) == 0.7
    for data in (b"1234567", "12345678", None):
        with pytest.raises(NotANumberUnpicklingError):
            scalar(kind, data)
    with pytest.raises(NotANumberUnpicklingError):
        scalar(np.dtype("f8"), b"12345678")
