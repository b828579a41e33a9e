"""When a call is made again, and after how long. Pure decisions; `deploy.client` acts on them.

Segmenting the same photo twice does no harm, so whatever says "not now" is tried again until the call's own deadline (a
server that no connection reaches, for at most `unreachable_s`): no connection, 429, 502, 503, 504, and TorchServe's
answers for a batch whose worker died. What says "never" is not: the other 4xx, and our handler's 500, which the same
photo would get again.

How much is sent again is bounded twice. A retry within the budget (20 % of the requests, and a burst) waits a random
time that doubles with each attempt. A retry beyond the budget waits the longest time, so callers that wait for a
server that is away ask it once in 5 s each; no call fails because the budget is used up. A server that answers that it
is full reads the whole photo to say so, which costs it masks: each such answer doubles the long wait, up to 20 s.
"""

from __future__ import annotations

import email.utils
import threading
import time
from dataclasses import dataclass
from typing import Final

import httpx

from segserve.errors import UsageError

LATER: Final = frozenset((429, 502, 503, 504, 507))
"""507 is TorchServe's for a batch whose worker was killed (as by the kernel when memory is short)."""
LONG_DOUBLINGS: Final = 2
WORKER_GONE: Final = frozenset(("Worker died.", "Worker scaled down."))
"""TorchServe's other answer to such a batch: 500 with one of these messages, if it has not yet seen what the worker
died of. Both come after a SIGKILL."""


@dataclass(frozen=True)
class Retry:
    """The policy of one client."""

    first_wait_s: float = 0.1
    """The wait before the first retry is random, up to this; then up to twice of it, and so on."""
    longest_wait_s: float = 5.0
    """It doubles up to this. A retry beyond the budget waits half of this or more, of a full server up to six times."""
    budget_share: float = 0.2
    """Retries per request that may be sent with short waits."""
    budget_burst: float = 10.0
    """So many more, when a while went well."""
    answer_s: float = 60.0
    """After so long without an answer the request counts as lost and is sent again; twice as long the next time.
    TorchServe 0.12 does lose those that it is gathering into a batch when the worker dies."""
    unreachable_s: float = 60.0
    """For how long there may be no server at all, or connections that break: then the call fails. 0: at once."""

    def __post_init__(self) -> None:
        if not 0 < self.first_wait_s <= self.longest_wait_s:
            raise UsageError(
                f"first_wait_s {self.first_wait_s}, longest_wait_s {self.longest_wait_s}: expected 0 < first <= longest"
            )
        if self.answer_s <= 0:
            raise UsageError(f"answer_s {self.answer_s}: expected more than 0")
        if min(self.budget_share, self.budget_burst, self.unreachable_s) < 0:
            raise UsageError("budget_share, budget_burst and unreachable_s can't be negative")

    def short_wait_s(self, retry: int, random: float) -> float:
        """Before the retry-th retry, counted from 1, within the budget; `random` is of [0, 1)."""
        return float(random * min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(retry - 1, 30)))

    def long_wait_s(self, full: int, random: float) -> float:
        """Beyond the budget, when the server has answered `full` times that it can't now (0: it did not answer)."""
        return float(self.longest_wait_s * 2.0 ** min(max(full - 1, 0), LONG_DOUBLINGS) * (0.5 + random))


class Budget:
    """Retries that may be sent soon. Shared by all calls of a client, from any thread."""

    def __init__(self, policy: Retry) -> None:
        self._share, self._burst = policy.budget_share, policy.budget_burst
        self._left = policy.budget_burst
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A call has begun."""
        with self._lock:
            self._left = min(self._burst, self._left + self._share)

    def take(self) -> bool:
        """Whether a retry is within the budget; it is spent if so."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


def again(answer: httpx.Response) -> bool:
    """Whether another attempt may get another answer. The body has been read."""
    return answer.status_code in LATER or (answer.status_code == 500 and _worker_gone(answer))


def retry_after_s(answer: httpx.Response) -> float:
    """What the server asks to wait: seconds or a date (RFC 9110, 10.2.3); 0 where it doesn't say, or not clearly."""
    said = answer.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _worker_gone(answer: httpx.Response) -> bool:
    """Its errors are {"code", "type", "message"}, ours {"error": …}."""
    try:
        return answer.json().get("message") in WORKER_GONE
    except (ValueError, AttributeError, TypeError):
        return False
