"""Names of a model's outputs: read from a file, and the outputs put into another order, or left out.

names = read_names(Path("names.txt"))
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segserve.errors import UsageError
from training import description

CLASSIFIERS = ("head.3", "aux.3")


def read_names(path: Path) -> tuple[str, ...]:
    """A line each, empty ones left out; of a .toml the `classes` of a dataset. Raises UsageError, DatasetError."""
    if path.suffix == ".toml":
        return description.labels(description.read(path), path).classes
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]  # Windows' BOM
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected text in UTF-8, a name a line ({error})") from None
    names = tuple(line for line in lines if line)
    if not names or len(set(names)) != len(names):
        raise UsageError(f"{path}: expected different names, a line each; got {len(names)}")
    return names


def arrange(
    state: dict[str, Tensor], names: tuple[str, ...], order: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The names and the state with outputs in `order`; what it does not name is left out, in the auxiliary head too.

    Raises UsageError for a name that no output has, or several.
    """
    if unknown := sorted(set(order) - set(names)):
        known = ", ".join(names) or "none, as it is a trunk without heads"
        raise UsageError(f"--order names {unknown}, which are no outputs of the model; it has: {known}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"--order cannot tell outputs of one name apart, {twice}: give them others with --classes"
        )
    index = torch.tensor([names.index(name) for name in order])
    moved = {f"{prefix}.{leaf}" for prefix in CLASSIFIERS for leaf in ("weight", "bias")}
    return order, {name: tensor[index] if name in moved else tensor for name, tensor in state.items()}
