"""A new .mar before the server sees it: checked, compared with what is in service, unpacked into the model store.

It is unpacked there because registering an archive makes TorchServe unpack it while every other request waits.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segserve.errors import CheckFailed, ServerError, SpecError, UsageError
from segserve.package import check_package
from segserve.spec import SPEC_FILE, ModelSpec

SPARE_BYTES = 200_000_000
"""What has to stay free on the disk of the model store: logs and the server's temporary files may be on it too."""
PUT_BACK: Final = "put the old package back there, and roll out the new one from a file of another name"
"""What to do where the file of the version in service is no longer what the server loaded."""

_FOLDER_NAME: Final = re.compile(r".+-.+-[0-9a-f]{8}")
"""As `folder_name` makes them, and as `make clean` knows them."""


@dataclass(frozen=True)
class GoldenPhoto:
    """An image file and its label map, uint8 (H, W) at the photo's upright size."""

    name: str
    photo: bytes
    labels: NDArray[np.uint8]


def check(mar: Path) -> ModelSpec:
    """Whole, proven (parity), of known content, with golden photos. Raises: UsageError, CheckFailed."""
    if not mar.is_file():
        raise UsageError(f"{mar}: no such file; export.build makes one, `make package` the demo model's")
    spec = check_package(mar)
    if not spec.golden:
        raise CheckFailed(
            f"{mar} has no golden photos, so nothing can tell whether it serves right; build it again"
        )
    return spec


def require_same_classes(new: ModelSpec, old: ModelSpec) -> None:
    """Clients read class ids: the same number must mean the same thing. Raises: CheckFailed."""
    if new.classes == old.classes:
        return
    differing = [
        f"{number} is {after or 'gone'}, was {before or 'nothing'}"
        for number, (before, after) in enumerate(_paired(old.classes, new.classes))
        if before != after
    ]
    shown = "; ".join(differing[:5]) + (f"; and {len(differing) - 5} more" if len(differing) > 5 else "")
    raise CheckFailed(
        f"{new.name} {new.version} has other classes than {old.version}, which is in service ({shown}); clients would "
        "take one class for another. If they are ready for it: --allow-class-change"
    )


def _paired(old: tuple[str, ...], new: tuple[str, ...]) -> list[tuple[str, str]]:
    length = max(len(old), len(new))
    return list(zip(old + ("",) * (length - len(old)), new + ("",) * (length - len(new)), strict=True))


def folder_name(spec: ModelSpec) -> str:
    """For the model store: NAME-VERSION-NUMBER, another one each time.

    Servers may share a store and roll out the same version; each has a folder of its own then, and removes no other's.
    """
    return f"{spec.name}-{spec.version}-{secrets.token_hex(4)}"


def unpack(mar: Path, store: Path, file: str) -> None:
    """Make the folder STORE/FILE with the content of `mar`, all of it or none.

    Raises: ServerError if the model store cannot be written, or would be full.
    """
    partial = _partial(store, file)
    try:
        with zipfile.ZipFile(mar) as archive:
            size, free = sum(item.file_size for item in archive.infolist()), shutil.disk_usage(store).free
            if free < size + SPARE_BYTES:
                raise ServerError(
                    f"the model store {store} has {free / 1e6:.0f} MB left; {mar.name} needs {size / 1e6:.0f} MB and "
                    f"{SPARE_BYTES / 1e6:.0f} MB to spare. Make room: old versions are folders there"
                )
            archive.extractall(partial)
        _sync(partial)
        os.replace(partial, store / file)
    except OSError as error:
        raise ServerError(
            f"cannot unpack {mar} into the model store {store}: {error.strerror or error}; nothing was changed"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # not there any more if all went well


def _partial(store: Path, file: str) -> Path:
    """Where a folder is until it is whole."""
    return store / f".{file}.partial"


def _sync(folder: Path) -> None:
    """On the disk, so that a restart of the machine finds a whole model."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def remove(store: Path, file: str) -> None:
    """The folder of a version that goes, whole or not. What was put there by hand stays, archives and folders."""
    shutil.rmtree(_partial(store, file), ignore_errors=True)
    path = store / file
    if _FOLDER_NAME.fullmatch(file) and path.is_dir() and (path / SPEC_FILE).exists():
        shutil.rmtree(path, ignore_errors=True)


def spec_of(path: Path) -> ModelSpec:
    """The spec of an archive or of an unpacked one. Raises: UsageError if it is gone, torn or something else now."""
    with _what_the_server_loaded(path):
        return ModelSpec.load(_inside(path, SPEC_FILE))  # type: ignore[arg-type]  # it can be read like a Path


def golden_photos(path: Path) -> list[GoldenPhoto]:
    """Of an archive or of an unpacked one. Raises: UsageError as `spec_of`."""
    golden = spec_of(path).golden
    with _what_the_server_loaded(path):
        return [
            GoldenPhoto(
                g.photo, _inside(path, g.photo).read_bytes(), _labels(_inside(path, g.mask).read_bytes())
            )
            for g in golden
        ]


@contextmanager
def _what_the_server_loaded(path: Path) -> Iterator[None]:
    """It was whole then, so what is missing or torn was renamed or replaced. Raises: UsageError, which says so."""
    try:
        yield
    except (
        zipfile.BadZipFile, zlib.error, KeyError, FileNotFoundError, SpecError, UnidentifiedImageError,
    ) as error:  # fmt: skip
        reason = str(error) if path.exists() else "it is gone"
        raise UsageError(
            f"{path} is no longer what the server loaded from it ({reason}): {PUT_BACK}"
        ) from None


def _labels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image, np.uint8)


def _inside(path: Path, name: str) -> Path | zipfile.Path:
    return path / name if path.is_dir() else zipfile.Path(path) / name
