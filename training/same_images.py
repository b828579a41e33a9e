"""Whether all processes of a training see the same images, and a resumed one those that it began with.

    images = everywhere([*datasets, val])     # a digest, which checkpoints record

The order in an epoch is a permutation of numbers, and which photo a number is follows from the list of files: with
another list the epoch under way would have some photos twice and others not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from segserve.errors import UsageError
from training import distributed
from training.data import Dataset

KEY = "images_sha256"  # in a checkpoint's provenance


def everywhere(datasets: Sequence[Dataset]) -> str:
    """The digest of the images' names, in their order. Raises UsageError, in all processes, where they differ."""
    found = digest(datasets)
    if not distributed.all_equal((int(found[:15], 16),)):  # 60 bits, which fit an int64 with either sign
        raise UsageError(
            f"the processes do not have the same images; this one has {listed(datasets)}, {KEY} {found}: the folders "
            "of --data must hold files of the same names on all machines"
        )
    return found


def digest(datasets: Sequence[Dataset]) -> str:
    """SHA-256 over the file names of all images; not over where the folders lie, which may differ."""
    names = [[sample.image.name for sample in dataset.samples] for dataset in datasets]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def listed(datasets: Sequence[Dataset]) -> str:
    """For people, such as "camvid (367 images), kitchens (52 images)"."""
    return ", ".join(f"{dataset.name} ({len(dataset.samples)} images)" for dataset in datasets)
