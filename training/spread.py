"""A few of many, spread evenly: neighbours in a list of photos are often frames of one scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items in their order, evenly spaced from the first on; all if there are no more than that."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]
