"""Signals to `deploy.server`: when they count, and that nohup's choice stands."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from deploy.interrupts import Asked, Interrupts

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_came_early_counts_as_soon_as_it_may(number: signal.Signals) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupts = Interrupts()
    signal.raise_signal(number)
    with pytest.raises(Asked):
        interrupts.arm()
    interrupts.disarm()
    signal.raise_signal(number)  # the end has begun: nothing happens


def test_under_nohup_a_hang_up_stops_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts = Interrupts()
    interrupts.arm()
    signal.raise_signal(signal.SIGHUP)
    with pytest.raises(Asked):
        signal.raise_signal(signal.SIGTERM)
