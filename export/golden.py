"""Golden photos: a few images and the checkpoint's own masks of them, packed so that a server can be asked the truth.

A rollout posts them to a new version before any client reaches it (deploy.rollout); whoever holds a package can do the
same by hand. Without a folder of photos they are rendered rooms, with one they are the user's, evenly chosen: then the
package contains those photos.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from export import cases
from segserve.encode import png
from segserve.errors import CheckFailed, RequestError, UsageError
from segserve.segmenter import Segmenter
from segserve.spec import Golden, ModelSpec
from training.spread import spread
from training.torch_engine import checkpoint_segmenter

COUNT = 4
FIRST_SEED = 93_000_000  # seen by no training, comparison or calibration
OURS = re.compile(r"golden-\d+(-mask)?\.\w+")
MAX_BYTES = 4_000_000
"""Of one photo: they travel with every package."""


def reference(checkpoint: Path, spec: ModelSpec) -> Segmenter:
    """The checkpoint that the artefacts of `spec` were compared with.

    Raises CheckFailed if another one has its name by now: a training may write it while it is exported.
    """
    segmenter = checkpoint_segmenter(checkpoint)
    got, expected = segmenter.spec.checkpoint_sha256, spec.checkpoint_sha256
    if got != expected:
        raise CheckFailed(
            f"no package: {checkpoint} changed while it was exported: its sha256 is {got[:12]}, what was compared had "
            f"{expected[:12]}. Export it again when nothing writes it, or a copy of it."
        )
    return segmenter


def write(reference: Segmenter, photos: Path | None, folder: Path) -> tuple[Golden, ...]:
    """Ask the checkpoint for its masks and write golden-N.jpg (or the photo's own kind) and golden-N-mask.png.

    `photos` is a folder of image files.

    Raises UsageError for a file that is no image.
    """
    files = fitting(photos)
    for old in folder.glob("golden-*"):
        if OURS.fullmatch(old.name):
            old.unlink()
    return tuple(
        _write(reference, number, name, photo, folder)
        for number, (name, photo) in enumerate(_photos(files), start=1)
    )


def fitting(photos: Path | None) -> list[Path]:
    """Those that are compared and small enough to be packed; rendered rooms are, if there are none."""
    return [path for path in cases.chosen_files(photos)[0] if path.stat().st_size <= MAX_BYTES]


def _photos(small: Sequence[Path]) -> list[tuple[str, bytes]]:
    if small:
        return [(path.name, path.read_bytes()) for path in spread(small, COUNT)]
    rooms = enumerate(cases.PHOTOS[:COUNT])
    return [("room.jpg", cases.room_jpeg(FIRST_SEED + n, *shape)) for n, shape in rooms]


def _write(reference: Segmenter, number: int, name: str, photo: bytes, folder: Path) -> Golden:
    try:
        mask = png(reference.segment(photo), reference.spec.palette_rgb)
    except RequestError as error:
        raise UsageError(f"--images: {name}: {error}") from error
    photo_file, mask_file = f"golden-{number}{Path(name).suffix.lower()}", f"golden-{number}-mask.png"
    (folder / photo_file).write_bytes(photo)
    (folder / mask_file).write_bytes(mask)
    return Golden(photo_file, _sha256(photo), mask_file, _sha256(mask))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
