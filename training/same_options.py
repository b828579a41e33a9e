"""Whether a training that goes on is told the same as when it began: its checkpoint's provenance beside this run's.

    require(out / "last.safetensors", began, now)

Anything else would end in other weights than a training that was never interrupted, without anybody noticing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from segserve.errors import UsageError
from training import same_images
from training.data import Dataset

LABEL_VALUES = "label_values"  # in a checkpoint's provenance
PATHS = ("data", "pretrained_from", "class_weights", "pairs_from")
"""Options that name files, which may lie elsewhere on the machine that goes on."""
TOLD = 2
"""Parts of a path that must be the same: rooms/dataset.toml is another thing than rooms_filled/dataset.toml."""


def require(path: Path, began: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Compare the provenance of the checkpoint `path` with that of this run. Raises UsageError where they differ."""
    if changed := _changed(began.get("options", "{}"), now["options"]):
        raise UsageError(f"{path} was trained with other options: {changed}")
    if now["precision"] != (was := began.get("precision")):
        given = json.loads(now["options"])["precision"]
        raise UsageError(
            f"{path} was trained in {was}, here --precision {given} means {now['precision']}: resume on the same "
            "hardware, or start anew with a --precision that both have"
        )
    if (loss := now.get("loss")) != (was := began.get("loss")):
        raise UsageError(
            f"{path} was trained with the loss {was!r}, here it is {loss!r}: restore labels and reports"
        )
    if (was := began.get(LABEL_VALUES)) and was != (values := now[LABEL_VALUES]):  # of late only
        raise UsageError(
            f"{path} was trained with labels that say something else: {LABEL_VALUES} was {was}, is {values}: restore "
            "ignore_values and [partial] of the descriptions, or start anew with another --out"
        )
    _require_images(path, began, now)


def label_values(datasets: Sequence[Dataset]) -> str:
    """What the values of each dataset's label files mean besides classes, as JSON: ignored ones, and "not these"."""
    return json.dumps(
        [[sorted({*one.ignore_values} - {one.ignore_label}), sorted(one.partial)] for one in datasets]
    )


def _changed(began: str, now: str) -> str:
    """The options in which a checkpoint differs from this command, both JSON; empty if it does not."""
    old, new = json.loads(began), json.loads(now)
    names = sorted(
        name
        for name in old.keys() | new.keys()
        if old.get(name) != new.get(name)
        and not (name in PATHS and _same_files(old.get(name), new.get(name)))
    )
    return ", ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names)


def _same_files(old: Any, new: Any) -> bool:
    """Whether two paths, or two lists of them, end alike: the folder's name and the file's."""
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same_files, old, new))
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    ends = (PurePath(one).parts[: -TOLD - 1 : -1] for one in (old, new))  # from the file's name on
    return all(one == other for one, other in zip(*ends, strict=False))


def _require_images(path: Path, began: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises UsageError where the provenances tell of other images; checkpoints from before that was told pass."""
    was, found = began.get(same_images.KEY), now.get(same_images.KEY)
    if was and found and was != found:
        raise UsageError(
            f"{path} was trained on other images: {same_images.KEY} was {was} of {began.get('datasets')} and the "
            f"validation's, is {found} of {now['datasets']} and the validation's: restore the files that were added, "
            "removed or renamed, or start anew with another --out (--pretrained-from takes the weights along)"
        )
