"""Which pair goes where: never the same clip, house or picture in two splits.

- Splits of the source are kept if it has "train" and "val" for all. What the two share is left out of "train", so that
  published evaluation sets stay whole.
- Otherwise they are made: pairs of a group, and pairs that show the same thing, stay together. The order is that of a
  hash of seed and name, so the same data and seed give the same splits on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segserve.errors import CheckFailed, UsageError
from training.duplicates import groups
from training.pairs import Checked
from training.sources.item import LeftOut, split_of

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """The outcome."""

    members: dict[str, tuple[Checked, ...]]
    left_out: tuple[tuple[Checked, LeftOut], ...]
    groups: dict[str, int]  # how many different ones are in each split


def group_keys(pattern: re.Pattern[str] | None, checked: Sequence[Checked]) -> list[str]:
    """First bracket of the pattern in each name, or all that matches; without one the name. Raises UsageError.

    The split's own folder is no part of a key: a house that is in two of them is one house.
    """
    if pattern is None:
        return [pair.name for pair in checked]
    found = [_key(pattern, pair) for pair in checked]
    if missed := [pair.name for pair, key in zip(checked, found, strict=True) if key is None]:
        raise UsageError(
            f"--group {pattern.pattern!r} doesn't match {len(missed)} of {len(checked)} names, as {missed[0]!r}"
        )
    return [key for key in found if key is not None]


def _key(pattern: re.Pattern[str], pair: Checked) -> str | None:
    """Of the whole name, less the split's folder; where that is all it finds, of the name without it."""
    start, end = _split_folder(pair)
    for name, (cut, after) in ((pair.name, (start, end)), (pair.name[:start] + pair.name[end:], (0, 0))):
        if match := pattern.search(name):
            first, last = match.span(1 if pattern.groups else 0)
            if key := name[first : max(first, min(last, cut))] + name[max(first, after) : last]:
                return key
    return None


def _split_folder(pair: Checked) -> tuple[int, int]:
    """Where in the name the first folder stands that is a split's, with what parts it from the next; 0, 0 if none."""
    at = 0
    for folder in pair.name.split("__")[:-1]:
        after = at + len(folder) + len("__")
        if pair.split and split_of(Path(folder, "x")) is not None:
            return at, after
        at = after
    return 0, 0


def ranks_of(checked: Sequence[Checked]) -> list[int]:
    """Of the source's splits: what two of them share stays in the one of the higher rank."""
    return [SPLITS.index(pair.split or "train") for pair in checked]


def keep(checked: Sequence[Checked], keys: Sequence[str], same: Sequence[tuple[int, int]]) -> Split:
    """The source's splits. `same`: index pairs that show the same thing, as `duplicates.links` gives them for ranks."""
    ranks = ranks_of(checked)
    reasons: dict[int, LeftOut] = {}
    highest: dict[str, int] = {}
    for key, place in zip(keys, ranks, strict=True):
        highest[key] = max(place, highest.get(key, place))
    for index, (key, place) in enumerate(zip(keys, ranks, strict=True)):
        if place < highest[key]:
            reason = f"its group {key!r} is in {SPLITS[highest[key]]} too"
            reasons[index] = LeftOut(checked[index].source, "group", reason)
    for low, high in same:
        if ranks[low] != ranks[high]:
            loser, winner = (low, high) if ranks[low] < ranks[high] else (high, low)
            other = checked[winner]
            reason = f"shows the same as {other.source}, which is in {other.split}"
            reasons.setdefault(loser, LeftOut(checked[loser].source, "duplicate", reason))
    placed = {index: SPLITS[ranks[index]] for index in range(len(checked)) if index not in reasons}
    return _split(checked, keys, placed, [(checked[index], bad) for index, bad in sorted(reasons.items())])


def make(
    checked: Sequence[Checked],
    keys: Sequence[str],
    same: Sequence[tuple[int, int]],
    shares: dict[str, float],
    seed: int,
) -> Split:
    """New splits. shares: of the pairs, for "val" and "test". Raises CheckFailed: too few groups."""
    first: dict[str, int] = {}
    links = [(first.setdefault(key, index), index) for index, key in enumerate(keys)]
    joined = groups(len(checked), [*links, *same])
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(joined):
        members[root].append(index)
    waiting = sorted(members.values(), key=lambda group: _order(seed, checked[group[0]].name))
    placed: dict[int, str] = {}
    for split, share in shares.items():
        chosen = _choose(waiting, round(share * len(checked)), share)
        taken = {group[0] for group in chosen}
        waiting = [group for group in waiting if group[0] not in taken]
        placed |= {index: split for group in chosen for index in group}
    placed |= {index: "train" for group in waiting for index in group}
    if not waiting and sum(shares.values()) < 1:
        advice = _too_few(checked, first, same)
        raise CheckFailed(
            f"{len(members)} groups of {len(checked)} pairs are too few for the splits; {advice}"
        )
    return _split(checked, [str(root) for root in joined], placed, [])


def _too_few(checked: Sequence[Checked], by_key: dict[str, int], same: Sequence[tuple[int, int]]) -> str:
    """Why, and what to do: without those that look alike there might be enough."""
    if len(by_key) < 2 or not same:
        return "choose a --group that tells more apart, or splits by hand in folders train/ and val/"
    low, high = same[0]
    return (
        f"{len({index for pair in same for index in pair})} look like others, as {checked[low].source} and "
        f"{checked[high].source} (a camera that stands still?), and stay together: add photos of other places, or "
        "give --keep-duplicates, with which val tells less of what training taught"
    )


def _choose(waiting: list[list[int]], wanted: int, share: float) -> list[list[int]]:
    """Groups in order as long as they fit; the smallest if none does and any is wanted."""
    chosen: list[list[int]] = []
    count = 0
    for group in waiting:
        if count + len(group) <= wanted:
            chosen.append(group)
            count += len(group)
    if not chosen and share > 0 and waiting:
        chosen.append(min(waiting, key=len))
    return chosen


def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def _split(
    checked: Sequence[Checked],
    keys: Sequence[str],
    placed: dict[int, str],
    left_out: list[tuple[Checked, LeftOut]],
) -> Split:
    used = [split for split in SPLITS if split in placed.values()]
    return Split(
        {
            split: tuple(checked[index] for index, where in sorted(placed.items()) if where == split)
            for split in used
        },
        tuple(left_out),
        {split: len({keys[index] for index, where in placed.items() if where == split}) for split in used},
    )
