"""A full queue of the largest requests must fit into the heap."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil  # type: ignore[import-untyped]
import pytest

from deploy import launch, memory
from deploy.launch import Plan
from segserve import cgroup
from segserve.errors import UsageError

GIB = 2**30
MAX_REQUEST_BYTES = 32 * 2**20
V2, V1 = "0::/a/b\n", "7:cpu:/a\n3:memory:/docker/0123\n0::/\n"


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


@pytest.mark.parametrize(
    ("own", "files", "gib"),
    [
        (V2, {}, 64),
        (V2, {"memory.max": "max"}, 64),
        (V2, {"memory.max": str(8 * GIB)}, 8),  # a container sees its own group as the root
        (V2, {"a/b/memory.max": "max", "a/memory.max": str(3 * GIB)}, 3),
        (V2, {"a/b/memory.max": str(2 * GIB), "a/memory.max": str(3 * GIB)}, 2),
        (V2, {"other/memory.max": str(GIB), "a/b/memory.max": str(99 * GIB)}, 64),
        (V1, {"memory/docker/0123/memory.limit_in_bytes": str(5 * GIB)}, 5),
        (V1, {"memory/memory.limit_in_bytes": str(6 * GIB)}, 6),  # its group is not visible
        (V1, {"memory/docker/0123/memory.limit_in_bytes": "9223372036854771712"}, 64),
    ],
)
def test_a_group_with_less_than_the_machine_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], gib: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB))
    monkeypatch.setattr(cgroup, "_MOUNT", tmp_path / "fs")
    monkeypatch.setattr(cgroup, "_OWN", tmp_path / "own")
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert memory.available_bytes() == gib * GIB


def test_the_server_gets_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * GIB)
    assert f"-Xmx{4 * GIB}" in launch.java_command(tmp_path, tmp_path, tmp_path, ("a=a.mar",))
    config = tmp_path / "config.properties"
    config.write_text(f"job_queue_size=100\nmax_request_size={MAX_REQUEST_BYTES}\n")
    plan = Plan(
        tmp_path, config, tmp_path, ("a=a.mar", "b=b.mar"), ("127.0.0.1", 1), ("127.0.0.1", 2), "none"
    )
    assert launch.queue_size(plan) == 38
    config.write_text("max_request_size=0\n")
    with pytest.raises(UsageError, match="max_request_size=0: expected 1 or more"):
        launch.queue_size(plan)
    config.write_text("job_queue_size=many\n")
    with pytest.raises(UsageError, match="must be numbers"):
        launch.queue_size(plan)
