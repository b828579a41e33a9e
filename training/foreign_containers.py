"""Where in a file the weights are: at its top, under a key, under keys within keys, or in two parts.

    parts, where = choose(content, take="", path=path)

One network is taken. What is known to be weights goes before what is not known; where that leaves several, the user
says which (`--take`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from segserve.errors import CheckpointError

# What weights are saved under. Those called moving averages come last: where a file has both, the others are taken.
# mmengine exchanges the two when it saves, so that there the averages are in state_dict, and are what is taken.
CONTAINERS = (
    "state_dict", "model", "model_state_dict", "model_state", "network", "net", "state_dict_ema", "ema_state_dict",
    "model_ema",
)  # fmt: skip
PARTS = ("encoder", "decoder")  # of one network
TOP = "the top of the file"
NO_WEIGHTS = "optim"  # an optimizer's tensors are of the weights' shapes
DEPTH = 4  # keys within keys; a pickle may hold itself

Content = Mapping[str, object]


@dataclass(frozen=True)
class _Found:
    """Weights of one network, under these keys. `rank`: smaller is taken first; None for a name that is not known."""

    keys: tuple[str, ...]
    parts: tuple[Content, ...]
    rank: tuple[int, ...] | None

    @property
    def name(self) -> str:
        return ".".join(self.keys)


def choose(content: Content, take: str, path: Path) -> tuple[tuple[Content, ...], str]:
    """What holds the weights, and in words where that was and what else could have been taken.

    Two parts are those of one network in two. Raises CheckpointError where nothing says which network is meant.
    """
    found = list(_holding(content))
    networks = _joined(found)
    if take:
        chosen = next((one for one in (*networks, *found) if one.name == take), None)
        if chosen is None:
            there = ", ".join(one.name for one in networks)
            what = (
                f"expected one of {there}" if there else "it has them at its top or nowhere: leave --take out"
            )
            raise CheckpointError(f"--take {take}: {path} has no weights under that; {what}")
    else:
        chosen = _first(content, networks, path)
    others = ", ".join(one.name for one in networks if chosen is None or not _overlap(one, chosen))
    parts, name = ((content,), TOP) if chosen is None else (chosen.parts, chosen.name)
    return parts, f"{name}, not {others}" if others else name


def _first(content: Content, networks: list[_Found], path: Path) -> _Found | None:
    """Without --take. None: the file's own top."""
    ranked = [(one.rank, number, one) for number, one in enumerate(networks) if one.rank is not None]
    if ranked:
        return min(ranked)[2]
    if _has_weights(content) or not networks:
        return None
    if len(networks) > 1:
        names = [one.name for one in networks]
        raise CheckpointError(
            f"{path} holds the weights of several networks: {', '.join(names)}; expected one: say which, as in --take "
            f"{names[0]}"
        )
    return networks[0]


def _holding(content: Content, before: tuple[str, ...] = ()) -> Iterator[_Found]:
    """Every mapping within that holds weights. Under a name that is known, tensors of any name are taken for such."""
    for key, inner in content.items():
        if not isinstance(inner, Mapping) or str(key).startswith(NO_WEIGHTS):
            continue
        keys = (*before, str(key))
        rank = _rank(keys)
        if _has_weights(inner) or (rank is not None and any(isinstance(v, Tensor) for v in inner.values())):
            yield _Found(keys, (inner,), rank)
        if len(keys) < DEPTH:
            yield from _holding(inner, keys)


def _joined(found: list[_Found]) -> list[_Found]:
    """With an encoder and a decoder of one place made one network."""
    by_keys = {one.keys: one for one in found}
    joined = list[_Found]()
    for one in found:
        before, last = one.keys[:-1], one.keys[-1]
        both = [by_keys.get((*before, part)) for part in PARTS]
        parts = tuple(part.parts[0] for part in both if part is not None)
        if last not in PARTS or len(parts) < len(PARTS):
            joined.append(one)
        elif last == PARTS[0]:
            joined.append(_Found((*before, "+".join(PARTS)), parts, _rank(before) if before else None))
    return joined


def _overlap(one: _Found, other: _Found) -> bool:
    return any(mine is theirs for mine in one.parts for theirs in other.parts)


def _rank(keys: tuple[str, ...]) -> tuple[int, ...] | None:
    return tuple(map(CONTAINERS.index, keys)) if set(keys) <= set(CONTAINERS) else None


def _has_weights(content: Content) -> bool:
    """Whether it looks like a state dict: the names of an optimizer's or a loss's tensors have no dot."""
    return any(isinstance(value, Tensor) and "." in str(name) for name, value in content.items())
