"""What the load test sends: photos of a folder or rendered ones, golden photos of packages, in which body and format.

photos_to_send(folder=None) -> photos of LOAD_SIZES, rendered once and kept in build/load-photos
golden_photos_of([Path("model_store/rooms.mar")]) -> photos, and their masks by version
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import photos as rendered
from benchmarks.photos import MIXED_SIZES, Photo, photo, photos_of
from deploy.incoming import golden_photos, spec_of
from deploy.options import REPOSITORY
from segserve.errors import SegserveError, UsageError
from segserve.request import CONTENT_TYPES

SEED = 100
CACHE = REPOSITORY / "build" / "load-photos"
LARGE_SIZE = (3000, 4000)
"""Of a phone's camera, 12 megapixels; a room of a quarter of the pixels enlarged, because rendering it takes 15 s."""
LOAD_SIZES = (*MIXED_SIZES, LARGE_SIZE)
"""Upright height and width, 0.3 to 12 megapixels."""
BOUNDARY = "segserve-load-d1f0a7"


@dataclass(frozen=True)
class Golden:
    """A photo and, version by version, the label map that a package has of it, uint8 (height, width)."""

    photo: Photo
    labels: dict[str, NDArray[np.uint8]]


def photos_to_send(folder: Path | None) -> tuple[Photo, ...]:
    """Of that folder, or the rendered ones. Raises: UsageError if the folder holds none."""
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--photos: {folder} is not a folder; give one with .jpg or .png files")
    return tuple(photos_of(folder or rendered_folder(LOAD_SIZES)))


def rendered_folder(sizes: Sequence[tuple[int, int]], cache: Path = CACHE) -> Path:
    """A folder with a rendered room of each upright height and width; made when it is not there yet."""
    source = hashlib.sha256(f"{SEED} {sizes}".encode() + Path(rendered.__file__).read_bytes())
    folder = cache / source.hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several load processes start at once, one of them renders
        if not folder.exists():
            made = folder.with_suffix(f".{os.getpid()}")
            made.mkdir(exist_ok=True)
            for number, size in enumerate(sizes):
                one = _room(SEED + number, *size)
                (made / f"{one.name}.jpg").write_bytes(one.jpeg)
            made.rename(folder)
    return folder


def golden_photos_of(packages: Sequence[Path]) -> tuple[list[Golden], list[str]]:
    """The golden photos, each once however many packages hold it, and the packages' versions. Raises: UsageError."""
    found: dict[str, Golden] = {}
    versions = []
    for path in packages:
        try:
            spec, goldens = spec_of(path), golden_photos(path)
        except (SegserveError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(f"--mar: {path} is not a package of export.build: {error}") from None
        if not goldens:
            raise UsageError(f"--mar: {path} has no golden photos; build it again with export.build")
        versions.append(spec.version)
        for one in goldens:
            digest = hashlib.sha256(one.photo).hexdigest()
            height, width = one.labels.shape
            name = f"golden-{digest[:8]}"
            found.setdefault(digest, Golden(Photo(name, one.photo, height, width), {}))
            found[digest].labels[spec.version] = one.labels
    return list(found.values()), versions


def body_of(photo: Photo, kind: str) -> tuple[bytes, str]:
    """The request's body and its content type; kind: raw or multipart."""
    media = "image/png" if photo.jpeg.startswith(b"\x89PNG") else "image/jpeg"
    if kind == "raw":
        return photo.jpeg, media
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="data"; filename="photo"\r\n'
        f"Content-Type: {media}\r\n\r\n"
    )
    body = head.encode() + photo.jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={BOUNDARY}"


def parse_formats(text: str) -> dict[str, float]:
    """`png=6,json=2` -> weights of the formats that are asked for. Raises: UsageError."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise UsageError(f"--formats: {part!r} is not FORMAT=WEIGHT, such as png=6") from None
        if name not in CONTENT_TYPES or weights[name] < 0:
            raise UsageError(
                f"--formats: got {part!r}, expected {', '.join(CONTENT_TYPES)}, each with a weight from 0"
            )
    if not sum(weights.values()):
        raise UsageError("--formats: all weights are 0, so nothing would be sent")
    return {name: weight for name, weight in weights.items() if weight}


def _room(seed: int, height: int, width: int) -> Photo:
    if (height, width) != LARGE_SIZE:
        return photo(seed, height, width)
    small = photo(seed, height // 2, width // 2)
    file = io.BytesIO()
    with Image.open(io.BytesIO(small.jpeg)) as image:
        image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return Photo(f"{width}x{height}", file.getvalue(), height, width)
