"""Decodes that are over their time are left alone, and what comes after them goes on."""

from __future__ import annotations

import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from deploy.processes import wait_until
from segserve import decode_pool
from segserve.decode_pool import DecodePool
from segserve.errors import DecodeTimeout, Overloaded

PATIENT_S = 60.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Stuck work waits for it; open at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


def work_of(gate: threading.Event) -> Callable[[str], str]:
    def work(item: str) -> str:
        while item == "stuck" and not gate.is_set():
            pass  # busy, as a decoder is
        if item == "asleep":
            assert gate.wait(PATIENT_S)
        return item.upper()

    return work


def decode_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "decode"}


def test_results_come_in_the_order_of_the_items(gate: threading.Event) -> None:
    items = [chr(ord("a") + n) for n in range(20)]
    assert DecodePool(3).map(work_of(gate), items) == [item.upper() for item in items]
    assert DecodePool(1).map(work_of(gate), []) == []


def test_what_takes_too_long_fails_alone(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    # as if the machine had nothing else to do
    monkeypatch.setattr(time, "clock_gettime", lambda _: math.inf)
    first, stuck, *others = DecodePool(2, timeout_s=2.0).map(work_of(gate), ["a", "stuck", "b", "c", "d"])
    assert (first, others) == ("A", ["B", "C", "D"])
    assert isinstance(stuck, DecodeTimeout)
    assert stuck.status == 413
    assert "not decoded within 2 s" in str(stuck)


def test_a_machine_that_does_not_get_round_to_it_is_no_fault_of_the_image(gate: threading.Event) -> None:
    [late] = DecodePool(1, timeout_s=0.2).map(work_of(gate), ["asleep"])
    assert isinstance(late, Overloaded)
    assert "the machine is busy; send it again later" in str(late)


def test_one_thread_is_replaced_while_it_is_stuck_and_spare_ones_end(gate: threading.Event) -> None:
    before = decode_threads()
    pool = DecodePool(1, timeout_s=1.0)
    assert isinstance(pool.map(work_of(gate), ["asleep"])[0], Overloaded)
    assert pool.map(work_of(gate), ["a", "b"]) == ["A", "B"]
    assert len(decode_threads() - before) == 2
    gate.set()
    assert wait_until(lambda: len(decode_threads() - before) == 1, PATIENT_S)
    assert pool.map(work_of(gate), ["a"]) == ["A"]


def test_with_every_thread_stuck_work_is_refused_at_once_until_one_is_back(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_pool, "SPARE_THREADS", 2)
    before = decode_threads()
    pool = DecodePool(2, timeout_s=1.0)
    results = pool.map(work_of(gate), ["asleep"] * 4 + ["a", "asleep"])
    assert [type(result) for result in results] == [Overloaded] * 6
    assert ["every thread" in str(result) for result in results] == [False] * 4 + [True] * 2
    assert len(decode_threads() - before) == 4  # a flood of such files makes no more
    [refused] = pool.map(work_of(gate), ["a"])
    assert isinstance(refused, Overloaded)
    assert (refused.status, refused.retry_after_s) == (503, 1.0)
    gate.set()
    assert wait_until(lambda: pool.map(work_of(gate), ["a"]) == ["A"], PATIENT_S)
    assert wait_until(lambda: len(decode_threads() - before) == 2, PATIENT_S)
    assert pool.map(work_of(gate), ["a", "b", "c"]) == ["A", "B", "C"]


def test_no_result_is_kept_alive(gate: threading.Event) -> None:
    class Photo:
        """Something to hold on to."""

    pool = DecodePool(2)
    photos = pool.map(lambda _: Photo(), [1, 2, 3])
    alive = [weakref.ref(photo) for photo in photos]
    del photos
    gc.collect()
    assert wait_until(lambda: [photo() for photo in alive] == [None] * 3, PATIENT_S)
