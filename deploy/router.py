"""A canary without nginx: some calls of one Python client go to another version.

    with Client(url, "rooms") as default, Client(url, "rooms/2.0") as canary:
        router = Router(default, canary, share=0.05, seed=1)
        mask_png = router.segment(photo, "png")

Only what calls through this object is shared out; `deploy.front canary` does it for all clients of a server.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from deploy.client import ANSWER_TIMEOUT_S, Refused
from segserve.errors import ServerError, UsageError

CANARY_SHARE = 0.5
"""Of a call's time: so long the canary has at most, and the default what is left."""


class Segments(Protocol):
    """What deploy.client.Client does."""

    def segment(
        self, image: bytes, answer_format: str, *, timeout_s: float = ANSWER_TIMEOUT_S, once: bool = False
    ) -> bytes: ...


@dataclass(frozen=True)
class Routed:
    """How many calls each version answered; `failed`: of the canary, which the default was asked then."""

    default: int = 0
    canary: int = 0
    failed: int = 0


class Router:
    """Thread-safe. Closes neither client.

    share: of the calls, 0 to 1. seed: the same calls then go the same ways, in the order in which they are made.
    """

    def __init__(self, default: Segments, canary: Segments, share: float, seed: int | None = None) -> None:
        if not 0 <= share <= 1:
            raise UsageError(f"share {share}: expected 0 to 1")
        self._default, self._canary, self._share = default, canary, share
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._routed = Routed()

    @property
    def routed(self) -> Routed:
        """What happened so far."""
        return self._routed

    def segment(self, image: bytes, answer_format: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
        """As Client.segment. What the canary can't answer or refuses, which may be its fault, the default is asked.

        The canary is asked once and has half of timeout_s, so that a broken one costs nobody the call.

        Raises: as Client.segment.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            to_canary = self._random.random() < self._share
        if to_canary:
            answer = self._ask_canary(image, answer_format, CANARY_SHARE * timeout_s)
            if answer is not None:
                return answer
        answer = self._default.segment(image, answer_format, timeout_s=deadline - time.monotonic())
        self._count(default=1)
        return answer

    def _ask_canary(self, image: bytes, answer_format: str, timeout_s: float) -> bytes | None:
        """None if it gives no answer."""
        try:
            answer = self._canary.segment(image, answer_format, timeout_s=timeout_s, once=True)
        except (ServerError, Refused):
            self._count(failed=1)
            return None
        self._count(canary=1)
        return answer

    def _count(self, default: int = 0, canary: int = 0, failed: int = 0) -> None:
        with self._lock:
            so_far = self._routed
            self._routed = Routed(so_far.default + default, so_far.canary + canary, so_far.failed + failed)
