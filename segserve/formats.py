"""Which image formats are served, and how the others are recognised so that a refusal can name them.

Only the decoders listed here ever see bytes from a client: Pillow reads about forty formats, some of them
through code that is rarely looked at (or, for EPS, through another program). What is not listed is told apart
by its first bytes alone, without parsing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

# Importing a plugin registers it: without these lines Pillow would import all forty at the first odd file.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    IcoImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

OPENED_FORMATS: Final = (
    "JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO",
)  # fmt: skip
"""What Pillow is allowed to try, most frequent first (their signatures exclude one another)."""

SERVED_FORMATS: Final = frozenset((*OPENED_FORMATS, "MPO"))
"""Pillow's names of what is served. MPO is opened as JPEG; its first picture is used."""

SERVED_NAMES: Final = "JPEG, MPO, PNG, WebP, AVIF, TIFF, GIF, BMP, JPEG 2000, PPM/PGM/PBM and ICO"
"""The same for people."""

_REFUSED_SIGNATURES: Final = (
    (0, b"%PDF-", "PDF"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"%!PS", "PostScript (EPS)"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"icns", "ICNS"),
    (0, b"\x00\x00\x02\x00\x00\x00", "TGA"),
    (0, b"\x00\x00\x02\x00", "Windows cursor (CUR)"),
    (0, b"\xd7\xcd\xc6\x9a", "Windows metafile (WMF)"),
    (40, b" EMF", "Windows metafile (EMF)"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"gimp xcf", "GIMP (XCF)"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"/* XPM */", "XPM"),
    (0, b"BLP1", "BLP"),
    (0, b"BLP2", "BLP"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (8, b"AVI ", "AVI video"),
    (0, b"\x00\x00\x01\xba", "MPEG video"),
    (0, b"\x00\x00\x01\xb3", "MPEG video"),
)
_AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
_HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))


def refused_format(data: bytes | bytearray) -> str | None:
    """Name of the image or video format that `data` is in, if it is a known one that is not served."""
    for offset, signature, name in _REFUSED_SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return name
    if data[4:8] == b"ftyp":
        return _refused_iso_media(data)
    if data[0:1] == b"\x0a" and data[1:2] in (b"\x00", b"\x02", b"\x03", b"\x05") and data[2:3] == b"\x01":
        return "PCX"
    if data[-18:] == b"TRUEVISION-XFILE.\x00":
        return "TGA"
    if looks_like_markup(data) and b"<svg" in bytes(data[:4096]).lower():
        return "SVG"
    return None


def _refused_iso_media(data: bytes | bytearray) -> str | None:
    """The container that AVIF, HEIC and MP4 share lists its brands in the first box."""
    box = bytes(data[8 : min(int.from_bytes(data[:4], "big"), 256)])
    brands = {box[start : start + 4] for start in range(0, len(box), 4)}
    if brands & _AVIF_BRANDS:
        return None
    return "HEIC/HEIF" if brands & _HEIF_BRANDS else "MP4 or QuickTime video"


def looks_like_markup(data: bytes | bytearray) -> bool:
    """Whether `data` begins like HTML or XML."""
    return bytes(data[:64]).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def served_by_signature(data: bytes | bytearray) -> str | None:
    """Pillow's name of the served format that `data` begins like, whatever follows; None if there is none."""
    prefix = bytes(data[:16])
    return next((name for name, accepts in _accepts() if accepts(prefix) is True), None)


def _accepts() -> Iterator[tuple[str, Callable[[bytes], bool | str]]]:
    for name in OPENED_FORMATS:
        accepts = Image.OPEN[name][1]
        if accepts is not None:
            yield name, accepts
