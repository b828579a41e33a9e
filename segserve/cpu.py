"""What the processor is and can, as the Linux kernel tells: engines and precisions are chosen by it."""

from __future__ import annotations

import platform
from pathlib import Path

_SPEED_DECIDING = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def name() -> str:
    """The processor's name."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def features() -> list[str]:
    """Of the instruction sets that decide an engine's speed, those that are here."""
    flags = next((line.split(":", 1)[1].split() for line in _cpuinfo() if line.startswith("flags")), [])
    return [feature for feature in _SPEED_DECIDING if feature in flags]


def has_bf16() -> bool:
    """Whether bfloat16 is multiplied in hardware; elsewhere it is slower than float32."""
    return bool({"avx512_bf16", "amx_bf16"} & set(features()))


def has_int8_dot() -> bool:
    """Whether products of 8 bits are added up in 32 bits; elsewhere pairs of them overflow the 16 they are added in."""
    return bool({"avx_vnni", "avx512_vnni", "amx_int8"} & set(features()))


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
