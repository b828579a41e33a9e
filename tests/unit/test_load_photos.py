"""What the load test sends: folders, rendered photos made once, golden photos of packages, bodies, formats."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.load_photos import body_of, golden_photos_of, parse_formats, photos_to_send, rendered_folder
from benchmarks.photos import Photo
from segserve.encode import png
from segserve.errors import UsageError
from segserve.spec import SPEC_FILE, Golden
from tests.specs import make_spec

MASK = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def package(folder: Path, version: str, mask: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> Path:
    """An unpacked one with one golden photo, the same in each."""
    folder.mkdir()
    photo, spec = b"a photo", make_spec(version=version)
    content = {"golden-1.jpg": photo, "golden-1-mask.png": png(mask, spec.palette_rgb)}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    golden = Golden("golden-1.jpg", sha256["golden-1.jpg"], "golden-1-mask.png", sha256["golden-1-mask.png"])
    dataclasses.replace(spec, golden=(golden,)).save(folder / SPEC_FILE)
    return folder


def test_rooms_are_rendered_once(tmp_path: Path) -> None:
    folder = rendered_folder(((96, 128), (128, 96)), tmp_path)
    sent = photos_to_send(folder)
    assert [(photo.name, photo.height, photo.width) for photo in sent] == [
        ("128x96.jpg", 96, 128),
        ("96x128.jpg", 128, 96),
    ]
    (folder / "more.txt").touch()
    assert rendered_folder(((96, 128), (128, 96)), tmp_path) == folder
    assert (folder / "more.txt").exists()
    assert rendered_folder(((96, 128),), tmp_path) != folder


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        photos_to_send(tmp_path / "none")
    with pytest.raises(UsageError, match=r"no \.jpg"):
        photos_to_send(tmp_path)


def test_a_golden_photo_of_two_packages_is_sent_once(tmp_path: Path) -> None:
    other = np.where(MASK == 2, 1, MASK).astype(np.uint8)
    [golden], versions = golden_photos_of(
        [package(tmp_path / "a", "1.0", MASK), package(tmp_path / "b", "2.0", other)]
    )
    assert versions == ["1.0", "2.0"]
    assert (golden.photo.height, golden.photo.width, golden.photo.jpeg) == (2, 3, b"a photo")
    np.testing.assert_array_equal(golden.labels["1.0"], MASK)
    np.testing.assert_array_equal(golden.labels["2.0"], other)


def test_a_file_that_is_no_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.mar").write_bytes(b"no zip")
    for path in (tmp_path / "x.mar", tmp_path / "none.mar", tmp_path):
        with pytest.raises(UsageError, match="is not a package"):
            golden_photos_of([path])
    make_spec().save(tmp_path / SPEC_FILE)
    with pytest.raises(UsageError, match="no golden photos"):
        golden_photos_of([tmp_path])


def test_bodies() -> None:
    file = io.BytesIO()
    Image.fromarray(MASK).save(file, "PNG")
    photo = Photo("a", file.getvalue(), 2, 3)
    assert body_of(photo, "raw") == (file.getvalue(), "image/png")
    assert body_of(Photo("b", b"\xff\xd8", 2, 3), "raw") == (b"\xff\xd8", "image/jpeg")
    body, content_type = body_of(photo, "multipart")
    boundary = content_type.partition("boundary=")[2].encode()
    head, _, rest = body.partition(b"\r\n\r\n")
    assert head.startswith(b"--" + boundary + b'\r\nContent-Disposition: form-data; name="data"')
    assert rest == file.getvalue() + b"\r\n--" + boundary + b"--\r\n"


def test_formats() -> None:
    assert parse_formats("png=6, json=0.5,npy") == {"png": 6, "json": 0.5, "npy": 1}
    assert parse_formats("png=0,json=2") == {"json": 2}
    for text in ("gif=1", "png=many", "png=-1", "png=0", ""):
        with pytest.raises(UsageError, match="--formats"):
            parse_formats(text)
