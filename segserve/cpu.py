"""What the processor is and can, as the Linux kernel tells: engines and precisions are chosen by it."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from segserve import cgroup
from segserve.errors import EngineError

_SPEED_DECIDING = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def name() -> str:
    """The processor's name."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many threads can work at a time: the cores that this process may use, or fewer where a quota is set.

    With more, all would have used up the container's time early in each period and stand still for the rest of it.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas())]))


def features() -> list[str]:
    """Of the instruction sets that decide an engine's speed, those that are here."""
    flags = next((line.split(":", 1)[1].split() for line in _cpuinfo() if line.startswith("flags")), [])
    return [feature for feature in _SPEED_DECIDING if feature in flags]


def has_bf16() -> bool:
    """Whether bfloat16 is multiplied in hardware; elsewhere it is slower than float32."""
    return bool({"avx512_bf16", "amx_bf16"} & set(features()))


def require_bf16(engine: str, precision: str) -> None:
    """Raises EngineError, with what to take instead, where an artefact that was proven with bf16 would crawl."""
    if not has_bf16():
        raise EngineError(
            f"{name()} does not multiply bf16 in hardware, which {engine}-{precision} was proven with: take {engine}, "
            "or run export.build on this host"
        )


def has_int8_dot() -> bool:
    """Whether products of 8 bits are added up in 32 bits; elsewhere pairs of them overflow the 16 they are added in."""
    return bool({"avx_vnni", "avx512_vnni", "amx_int8"} & set(features()))


def _quotas() -> Iterator[float]:
    """In cores: what `docker run --cpus` sets. A group without one says "max" (version 2) or -1 (version 1)."""
    for group in cgroup.folders("cpu"):
        version_1 = f"{cgroup.read(group / 'cpu.cfs_quota_us')} {cgroup.read(group / 'cpu.cfs_period_us')}"
        quota_us, _, period_us = (cgroup.read(group / "cpu.max") or version_1).partition(" ")
        if quota_us.isdigit() and period_us.isdigit() and int(period_us) > 0:
            yield int(quota_us) / int(period_us)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
