"""How much the server may hold at once, so that a rush of large photos is refused (503) and does not end it.

Measured with 20 waiting requests of 32 MB: each stands on Java's heap once, 32.4 MB, and in passing once more in
buffers beside the heap, which Java limits to the size of the heap. Java's own choice of heap, a quarter of the memory,
overflows on a machine of 8 GB when 100 such requests wait.

That holds for photos, not for forms of very many fields: netty takes 90 bytes of heap for each byte of an urlencoded
form of empty fields, 10 for each of a multipart one, and has no limit that could be set (see the README's Limits).
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from segserve import cgroup

HEAP_SHARE = 0.4
"""Of the memory; it is taken only when it is needed. Buffers, the workers and the system have the rest."""
QUEUE_SHARE = 0.6
"""Of the heap. The rest: requests that still arrive, the batch that the worker has, answers on their way."""


def available_bytes() -> int:
    """Memory of this machine, or of the container or the service of systemd if that has less."""
    return min([int(psutil.virtual_memory().total), *_limits_bytes()])


def _limits_bytes() -> Iterator[int]:
    """What `docker run --memory` sets. A group without one says "max" (version 2) or more than any machine has."""
    for group in cgroup.folders("memory"):
        limit = cgroup.read(group / "memory.max") or cgroup.read(group / "memory.limit_in_bytes")
        if limit.isdigit():
            yield int(limit)


def heap_bytes(memory_bytes: int) -> int:
    """What Java may take at most for its heap."""
    return int(memory_bytes * HEAP_SHARE)


def queue_size(wanted: int, memory_bytes: int, max_request_bytes: int, num_models: int) -> int:
    """Requests that may wait for each model: `wanted`, or as many of the largest as the heap has room for."""
    room = int(heap_bytes(memory_bytes) * QUEUE_SHARE) // max_request_bytes // max(num_models, 1)
    return max(1, min(wanted, room))
