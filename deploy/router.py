"""A canary without nginx: some calls of one Python client go to another version.

    with Client(url, "rooms") as default, Client(url, "rooms/2.0") as canary:
        router = Router(default, canary, share=0.05, seed=1)
        mask_png = router.segment(photo, "png")

Only what calls through this object is shared out; `deploy.front canary` does it for all clients of a server.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Protocol

from deploy.client import Refused
from segserve.errors import ServerError, UsageError


class Segments(Protocol):
    """What deploy.client.Client does."""

    def segment(self, image: bytes, answer_format: str) -> bytes: ...


@dataclass(frozen=True)
class Routed:
    """How many calls each version answered; `failed`: of the canary, answered by the default then."""

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

    def segment(self, image: bytes, answer_format: str) -> bytes:
        """As Client.segment. What the canary can't answer the default does; a bad image is bad for both.

        Raises: as Client.segment.
        """
        with self._lock:
            to_canary = self._random.random() < self._share
        if to_canary:
            try:
                answer = self._canary.segment(image, answer_format)
            except ServerError:
                self._count(failed=1)
            except Refused as error:
                if error.http_status != 404 and error.http_status < 500:
                    raise
                self._count(failed=1)
            else:
                self._count(canary=1)
                return answer
        answer = self._default.segment(image, answer_format)
        self._count(default=1)
        return answer

    def _count(self, default: int = 0, canary: int = 0, failed: int = 0) -> None:
        with self._lock:
            so_far = self._routed
            self._routed = Routed(so_far.default + default, so_far.canary + canary, so_far.failed + failed)
