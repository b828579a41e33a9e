"""Requests that deserve an error, and which: what a service that is open to people gets sent every day."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class BadRequest:
    """A body with its headers, and the status that docs/http.md promises for it."""

    name: str
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def bad_requests(photo: bytes) -> tuple[BadRequest, ...]:
    """`photo` is a good JPEG file, to be spoiled."""
    return (
        BadRequest("empty", 400, b""),
        BadRequest("text", 400, b"this is not a photo\n" * 50),
        BadRequest("truncated", 400, photo[: len(photo) // 2]),
        BadRequest("torn in the middle", 400, photo[: len(photo) // 3] + bytes(len(photo) // 3)),
        BadRequest("no such format", 406, photo, {"Accept": "text/html"}),
        BadRequest("a million pixels high and wide", 413, _enormous_png()),
        BadRequest("another kind of image", 415, _file("TGA")),
        BadRequest("no such class", 422, *_form(photo, {"classes": "elephant"})),
    )


def _enormous_png() -> bytes:
    """60 bytes that claim a million million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1_000_000, 1_000_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def _file(image_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(file, image_format)
    return file.getvalue()


def _form(photo: bytes, fields: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """multipart/form-data with the photo in `data`: its body and header."""
    boundary = "----segserve"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="data"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    parts += [head.encode(), photo, f"\r\n--{boundary}--\r\n".encode()]
    return b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={boundary}"}
