"""How far a long preparation is, said now and then: to people, and to who waits for the load (benchmarks/loaded.py).

for photo in told(photos, "photos sent while it is quiet"):
    ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

TELL_EVERY_S = 10.0

Item = TypeVar("Item")


def told(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items; before one, if nothing was said for a while, how many are done."""
    said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said >= TELL_EVERY_S:
            print(f"{what}: {done} of {len(items)}", flush=True)
            said = time.monotonic()
        yield item
