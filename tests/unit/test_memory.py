"""A full queue of the largest requests must fit into the heap."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import launch, memory
from deploy.launch import Plan
from segserve.errors import UsageError

GIB = 2**30
MAX_REQUEST_BYTES = 32 * 2**20


@pytest.mark.parametrize(
    ("memory_gib", "num_models", "expected"), [(64, 1, 100), (8, 1, 61), (8, 2, 30), (2, 1, 15), (0.05, 3, 1)]
)
def test_the_queue_is_as_long_as_wanted_or_as_the_heap_allows(
    memory_gib: float, num_models: int, expected: int
) -> None:
    assert memory.queue_size(100, int(memory_gib * GIB), MAX_REQUEST_BYTES, num_models) == expected


@pytest.mark.parametrize("num_models", [1, 3])
@pytest.mark.parametrize("memory_gib", [1, 2, 8, 64])
def test_full_queues_leave_a_third_of_the_heap(memory_gib: int, num_models: int) -> None:
    size = memory.queue_size(100, memory_gib * GIB, MAX_REQUEST_BYTES, num_models)
    assert num_models * size * MAX_REQUEST_BYTES < memory.heap_bytes(memory_gib * GIB) * 2 / 3


def test_a_container_with_less_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(limit), str(tmp_path / "none")))
    machine = memory.available_bytes()
    limit.write_text("max\n")
    assert memory.available_bytes() == machine
    limit.write_text("123456789\n")
    assert memory.available_bytes() == 123_456_789


def test_the_server_gets_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * GIB)
    assert f"-Xmx{4 * GIB}" in launch.java_command(tmp_path, tmp_path, tmp_path, ("a=a.mar",))
    config = tmp_path / "config.properties"
    config.write_text(f"job_queue_size=100\nmax_request_size={MAX_REQUEST_BYTES}\n")
    plan = Plan(
        tmp_path, config, tmp_path, ("a=a.mar", "b=b.mar"), ("127.0.0.1", 1), ("127.0.0.1", 2), "none"
    )
    assert launch.queue_size(plan) == 38
    config.write_text("job_queue_size=many\n")
    with pytest.raises(UsageError, match="must be numbers"):
        launch.queue_size(plan)
