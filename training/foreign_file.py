"""Open a file of weights that somebody else made, without running anything that is in it.

    content = read((Path("train_epoch_100.pth"),), "auto")
    content = read((Path("last.pt"),), "semseg", take="ema")

A .pth is a pickle, and a pickle can run programs. It is opened with torch's weights-only unpickler, which knows
tensors and plain containers, and here NumPy's numbers (training.foreign_numbers). A file that needs more is refused;
the message says how its owner makes one that does not (training.foreign_refusal). Which mapping in it is taken:
training.foreign_containers. What is safetensors is known by its content: people rename files.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from segserve.errors import CheckpointError
from training.foreign import SHOWN, Source, aside, recognise, unwrap
from training.foreign_config import Habits, habits
from training.foreign_containers import choose
from training.foreign_numbers import NUMBERS
from training.foreign_refusal import refusal

LONGEST_HEADER = 100_000_000  # of safetensors, as its library has it


@dataclass(frozen=True)
class Read:
    """Tensors by their source's names, class names where the file has some, and under which keys the tensors were.

    `habits`: what the file's own configuration says, if it is `configured`; `left_out`: names of tensors that are no
    weights.
    """

    tensors: dict[str, Tensor]
    classes: tuple[str, ...]
    source: Source
    taken_from: str
    habits: Habits
    configured: bool
    left_out: tuple[str, ...]


def read(files: tuple[Path, ...], source: str, take: str = "") -> Read:
    """All tensors of the files together. Raises CheckpointError for what cannot be read or recognised.

    `take`: dotted name of the mapping to take in each of them; empty: the usual ones.
    """
    tensors: dict[str, Tensor] = {}
    classes: tuple[str, ...] = ()
    taken_from, text, left_out = [], "", list[str]()
    for path in files:
        content = _open(path)
        parts, where = choose(content, take, path)
        taken_from.append(where)
        for inner in parts:
            weights, beside = aside(_tensors(inner, path))
            left_out += beside
            found = unwrap(weights)
            if twice := sorted(tensors.keys() & found.keys()):
                raise CheckpointError(
                    f"{path} has {twice[0]} as the part before it has: these are no parts of one network"
                )
            tensors |= found
        classes, text = classes or _classes(content), text or _config(content)
    known = recognise(tensors, source)
    configured = known.name == "mmseg" and bool(text)
    said = habits(text) if configured else Habits()
    return Read(tensors, classes, known, "; ".join(taken_from), said, configured, tuple(left_out))


def _open(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise CheckpointError(f"no file at {path}")
    try:
        if _is_safetensors(path):
            return dict(safetensors.torch.load_file(path))
        # torch warns of other kinds of files and of old ways of storage, and says no more than the errors; it goes by
        # names, too, and so is given none
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMBERS), path.open("rb") as file:
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, pickle.UnpicklingError among them
        raise CheckpointError(refusal(path, error)) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, expected a state dict: save net.state_dict(), not the network"
        )
    return content


def _is_safetensors(path: Path) -> bool:
    """Whether it begins with the length of a header of JSON, and with that."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER


def _tensors(inner: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(inner)[:SHOWN])) or "none"
        raise CheckpointError(
            f"{path}: no weights in it, neither at its top (keys: {keys}) nor in a mapping within: expected tensors "
            "with names such as layer1.0.conv1.weight; save net.state_dict()"
        )
    return tensors


def _classes(content: Mapping[str, object]) -> tuple[str, ...]:
    """mmseg writes them: meta.CLASSES, later meta.dataset_meta.classes."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return ()
    inner = meta.get("dataset_meta")
    names = meta.get("CLASSES") or (inner.get("classes") if isinstance(inner, Mapping) else None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _config(content: Mapping[str, object]) -> str:
    """mmseg's, as text: meta.config, later meta.cfg. Empty if there is none."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return ""
    text = meta.get("config") or meta.get("cfg")
    return text if isinstance(text, str) else ""
