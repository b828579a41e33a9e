"""Open a file of weights that somebody else made, without running anything that is in it.

    content = read((Path("train_epoch_100.pth"),), "auto")

A .pth is a pickle, and a pickle can run programs. It is opened with torch's weights-only unpickler, which knows
tensors and plain containers. A file that needs more is refused; the message says how its owner makes one that does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from segserve.errors import CheckpointError
from training.foreign import Habits, Source, aside, habits, recognise, unwrap

# What weights are saved under. Those called moving averages come last: where a file has both, the others are taken.
# mmengine exchanges the two when it saves, so that there the averages are in state_dict, and are what is taken.
CONTAINERS = (
    "state_dict", "model", "model_state_dict", "model_state", "network", "net", "state_dict_ema", "ema_state_dict",
    "model_ema",
)  # fmt: skip


@dataclass(frozen=True)
class Read:
    """Tensors by their source's names, class names where the file has some, and under which keys the tensors were.

    `habits`: what the file's own configuration says; `left_out`: names of tensors that are no weights.
    """

    tensors: dict[str, Tensor]
    classes: tuple[str, ...]
    source: Source
    taken_from: str
    habits: Habits
    left_out: tuple[str, ...]


def read(files: tuple[Path, ...], source: str) -> Read:
    """All tensors of the files together. Raises CheckpointError for what cannot be read or recognised."""
    tensors: dict[str, Tensor] = {}
    classes: tuple[str, ...] = ()
    taken_from, text, left_out = [], "", list[str]()
    for path in files:
        content = _open(path)
        inner, where = _weights(content)
        taken_from.append(where)
        weights, beside = aside(_tensors(inner, path))
        left_out += beside
        found = unwrap(weights)
        if twice := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(
                f"{path} has {twice[0]} as the file before it has: these are no two parts of one"
            )
        tensors |= found
        classes, text = classes or _classes(content), text or _config(content)
    known = recognise(tensors, source)
    said = habits(text) if known.name == "mmseg" else Habits()
    return Read(tensors, classes, known, "; ".join(taken_from), said, tuple(left_out))


def _open(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise CheckpointError(f"no file at {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no whole file of weights ({error}): copy it again") from None
    except Exception as error:  # torch raises many kinds, pickle.UnpicklingError among them
        raise CheckpointError(_refusal(path, error)) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, expected a state dict: save net.state_dict(), not the network"
        )
    return content


def _refusal(path: Path, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    with path.open("rb") as file:
        pickled = file.read(2) in (b"PK", b"\x80\x02")  # torch.save's zip, and what it wrote before 1.6
    if not pickled or "Unpickling" not in type(error).__name__:
        return f"{path} is no whole file of weights ({first}): copy it again"
    wanted = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), first)
    return (
        f"{path} holds more than tensors, and opening that could run a program ({wanted}). If you trust where it comes "
        f'from, strip it where it was trained, then import the result: python -c "{_strip(path)}"'
    )


def _strip(path: Path) -> str:
    """A program for a shell's double quotes: tensors, class names and configuration of a file, or of a network."""
    new = f"{path.stem}-weights.pth"
    return (
        f"import torch; c = torch.load({path.name!r}, map_location='cpu', weights_only=False); "
        "d = lambda x: x.state_dict() if hasattr(x, 'state_dict') else x; "
        "c = c if isinstance(c, dict) else {'model': c}; m = c.get('meta') or {}; "
        "n = m.get('CLASSES') or (m.get('dataset_meta') or {}).get('classes') or (); "
        f"s = next((x for k in {CONTAINERS!r} if isinstance(x := d(c.get(k)), dict)), c); "
        "t = {'CLASSES': list(n), 'config': str(m.get('config') or m.get('cfg') or '')}; "
        "torch.save({'meta': t, 'state_dict': {k: v for k, v in s.items() if torch.is_tensor(v)}}, "
        f"{new!r})"
    )


def _weights(content: Mapping[str, object]) -> tuple[Mapping[str, object], str]:
    """The first container that has tensors, else the file's own top; and in words which, of which it is."""
    found = {
        name: inner
        for name in CONTAINERS
        if isinstance(inner := content.get(name), Mapping)
        and any(isinstance(v, Tensor) for v in inner.values())
    }
    if not found:
        return content, "the top of the file"
    name, *others = found
    return found[name], f"{name}, not {', '.join(others)}" if others else name


def _tensors(inner: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: no tensors in it (keys: {', '.join(map(str, list(inner)[:6]))})")
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
