"""What a new version's speed is judged by."""

from __future__ import annotations

import pytest

from deploy.probe import Speed


@pytest.mark.parametrize(
    ("old_handler", "new_handler", "old_latency", "new_latency", "slowdown"),
    [
        (100, 100, 110, 110, 1.0),  # a quiet server
        (100, 300, 110, 310, 3.0),
        (100, 100, 110, 530, 5.0),  # slow around the worker's own clock
        (100, 100, 1500, 530, 5.0),  # the same while the old version has a queue
        (200, 100, 1500, 120, 0.5),
    ],
)
def test_slowdown(
    old_handler: float, new_handler: float, old_latency: float, new_latency: float, slowdown: float
) -> None:
    assert Speed(old_handler, new_handler, old_latency, new_latency).slowdown() == pytest.approx(slowdown)
