"""Checkpoints: one `.safetensors` file that says what it holds and whether it is whole.

The file is the only source of truth. Its header carries a JSON description (preset, classes, input size,
normalisation…) and a SHA-256 over that description and every tensor. Both are checked at each load, so a
torn, altered or foreign file ends with a clear error, and nothing is ever unpickled. `NAME.json` beside it is
a copy for people.

    python -m json.tool runs/rooms/best.json
"""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from segserve.errors import CheckpointError, UsageError
from training import pspnet
from training.decision import decision
from training.meta import CheckpointMeta

__all__ = [
    "BEST",
    "LAST",
    "SHIPPED",
    "CheckpointMeta",
    "load_checkpoint",
    "load_model",
    "load_state",
    "load_training",
    "require_another",
    "save_checkpoint",
]

LAST, BEST, SHIPPED = "last.safetensors", "best.safetensors", "model.safetensors"  # of a training
_META_KEY, _DIGEST_KEY = "segserve", "sha256"  # of the safetensors header
_TRAINING = "train/"  # prefix of what only a resumed training needs; no parameter name contains a slash
AUX = "aux."  # prefix of the auxiliary head: needed to train, may be absent from a shipped checkpoint


def save_checkpoint(
    path: Path,
    state: dict[str, Tensor],
    meta: CheckpointMeta,
    *,
    half: bool = False,
    training: dict[str, Tensor] | None = None,
) -> None:
    """Write `path` (and the readable copy beside it) so that a crash leaves the old file or the new one.

    Args:
        state: the model's state_dict.
        half: store weights in float16. Vectors (biases, batch-norm statistics) stay in float32: they cost
            little, and a variance does not fit the range of float16.
        training: what a resumed training needs besides (momentum buffers, loss scale).

    Raises: CheckpointError if the file cannot be written or a weight does not fit float16.
    """
    tensors = {name: _stored(name, tensor, half) for name, tensor in state.items()}
    tensors |= {_TRAINING + name: _stored(name, tensor, False) for name, tensor in (training or {}).items()}
    text = meta.to_json()
    header = {_META_KEY: text, _DIGEST_KEY: _digest(text, tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, safetensors.torch.save(tensors, header))
        _write_atomically(path.with_suffix(".json"), (meta.to_json(indent=2) + "\n").encode())
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {error}") from error


def load_checkpoint(path: Path, *, cast: bool = True) -> tuple[dict[str, Tensor], CheckpointMeta]:
    """The model's state_dict (floating tensors as float32 unless `cast` is off, on the CPU) and its description.

    Raises: CheckpointError for a file that is missing, torn, altered or foreign.
    """
    tensors, meta = _read(path)
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith(_TRAINING)}
    return {name: t.float() if cast and t.is_floating_point() else t for name, t in state.items()}, meta


def load_training(path: Path) -> dict[str, Tensor]:
    """What was given to `save_checkpoint` as `training`.

    Raises: CheckpointError as `load_checkpoint`, and if the file holds nothing to resume from.
    """
    tensors, _ = _read(path)
    training = {name.removeprefix(_TRAINING): t for name, t in tensors.items() if name.startswith(_TRAINING)}
    if not training:
        raise CheckpointError(f"{path} holds a model but no training state: resume from last.safetensors")
    return training


def require_another(checkpoint: Path, out: Path) -> None:
    """For commands that make a checkpoint of a checkpoint. Raises UsageError where the files are not two of them."""
    if checkpoint.suffix != ".safetensors" or out.suffix != ".safetensors":
        raise UsageError(f"{checkpoint}, --out {out}: expected checkpoints (.safetensors)")
    if out.resolve() == checkpoint.resolve():
        raise UsageError(f"--out {out}: is the checkpoint itself; it stays as it is")


def load_model(path: Path) -> tuple[pspnet.PSPNet, CheckpointMeta]:
    """The model in eval mode, float32 on the CPU, and its description.

    Where the file has no auxiliary head, neither has the model: it can be served and evaluated, not trained on.

    Raises: CheckpointError as `load_checkpoint`, and if the weights do not fit the preset.
    """
    state, meta = load_checkpoint(path)
    if meta.preset not in pspnet.PRESETS:
        raise CheckpointError(f"{path}: preset {meta.preset!r} is not one of {', '.join(pspnet.PRESETS)}")
    if not meta.classes:
        raise CheckpointError(
            f"{path} holds a trunk without heads: start a training from it (--pretrained-from)"
        )
    model = pspnet.build(meta.preset, len(meta.classes), align_corners=meta.align_corners, layout=meta.layout)
    pspnet.set_bn_eps(model, meta.bn_eps)
    model.decide = decision(meta)
    if not any(name.startswith(AUX) for name in state):
        del model.aux
    load_state(model, state, path)
    return model.eval(), meta


def load_state(model: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Copy `state` into `model`. Raises: CheckpointError naming `path` and the tensors that do not fit."""
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in sorted(own.keys() - state.keys())]
    wrong += [f"{name} is not in the model" for name in sorted(state.keys() - own.keys())]
    wrong += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(wrong[:3])}{more}")
    model.load_state_dict(state)


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()  # safetensors takes no channels_last
    if not (half and tensor.is_floating_point() and tensor.ndim > 1):
        return tensor
    if not torch.isfinite(small := tensor.half()).all():
        raise CheckpointError(f"{name} does not fit float16: max {tensor.abs().max():g}; save in float32")
    return small


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_atomically(path: Path, data: bytes) -> None:
    _remove_left_over(path)
    # each process its own, so that two which write at once don't mix what they write
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """What writers of `path` that were killed left: each is as large as a whole checkpoint."""
    for found in path.parent.glob(glob.escape(f".{path.name}.") + "*.tmp"):
        writer = found.name.split(".")[-2]
        if writer.isdigit() and not _lives(int(writer)):
            found.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _read(path: Path) -> tuple[dict[str, Tensor], CheckpointMeta]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            # clone: the tensors of an open file are views of a mapping that a later write could change
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({error}).{_hint(path)}") from error
    if _META_KEY not in header or _DIGEST_KEY not in header:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of training.train")
    if _digest(header[_META_KEY], tensors) != header[_DIGEST_KEY]:
        raise CheckpointError(f"{path} was altered or damaged after it was written: its SHA-256 differs")
    try:
        return tensors, CheckpointMeta.from_json(header[_META_KEY])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _hint(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":  # the zip of torch.save, or a bare pickle
        return " It looks like a pickled PyTorch file; those can run code and are not opened here."
    return " Copy it again, or take an earlier checkpoint."
