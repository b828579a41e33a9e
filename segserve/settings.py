"""What the section `segserve` of a model-config.yaml may say. A misspelt setting must not pass for its default.

read({"threads": 4}) -> Settings(threads=4, max_pixels=64000000, ...)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from segserve.decode_pool import DECODE_TIMEOUT_S
from segserve.errors import UsageError
from segserve.image import MAX_PIXELS

MAX_RESPONSE_BYTES: Final = MAX_PIXELS + 4096
"""A 64 MP label map as npy, the largest answer there is. config.properties allows more."""


@dataclass(frozen=True)
class Settings:
    """Explained in handlers/model-config.yaml. Raises: UsageError for a value of another type, or out of range."""

    threads: int = 0
    fallback: bool = False
    max_pixels: int = MAX_PIXELS
    decode_timeout_s: float = DECODE_TIMEOUT_S
    max_response_bytes: int = MAX_RESPONSE_BYTES

    def __post_init__(self) -> None:
        expected = {
            "threads": ("a whole number from 0", _is_int(self.threads, 0)),
            "fallback": ("true or false, without quotes", isinstance(self.fallback, bool)),
            "max_pixels": ("a whole number from 1", _is_int(self.max_pixels, 1)),
            "decode_timeout_s": ("a number of seconds above 0", _is_duration(self.decode_timeout_s)),
            "max_response_bytes": ("a whole number from 1", _is_int(self.max_response_bytes, 1)),
        }
        wrong = [
            f"{name} is {getattr(self, name)!r}, expected {words}"
            for name, (words, holds) in expected.items()
            if not holds
        ]
        if wrong:
            raise UsageError(f"model-config.yaml, section segserve: {'; '.join(wrong)}")


def read(section: object) -> Settings:
    """The section as it was parsed; None, where there is none, stands for the defaults.

    Raises: UsageError, also for settings that do not exist.
    """
    known = [field.name for field in dataclasses.fields(Settings)]
    if section is None:
        return Settings()
    if not isinstance(section, dict):
        raise UsageError(
            f"model-config.yaml, section segserve: it is {section!r}, expected {', '.join(known)}"
        )
    if unknown := [str(name) for name in section if name not in known]:
        raise UsageError(
            f"model-config.yaml, section segserve: there is no {', '.join(unknown)}; it may have {', '.join(known)}"
        )
    return Settings(**section)


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
