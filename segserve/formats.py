"""Which image formats are served, and how the others are recognised so that a refusal can name them.

Only the decoders listed here ever see bytes from a client: Pillow reads about forty formats, some of them
through code that is rarely looked at (or, for EPS, through another program). What is not listed is told apart
by its first bytes alone, without parsing; camera raws, which are TIFFs, by the tags of their first directory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

# Importing a plugin registers it: without these lines Pillow would import all forty at the first odd file.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    IcoImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from segserve.jpeg_scans import MAX_SEGMENTS
from segserve.limited_file import LimitedFile

# Else each decode takes all cores, in threads that segserve.decode_pool does not see: it would take a file that kept
# the machine busy for one that the machine had no time for. Side by side are the images of a batch.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

OPENED_FORMATS: Final = (
    "JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO",
)  # fmt: skip
"""What Pillow is allowed to try, most frequent first (their signatures exclude one another)."""

SERVED_FORMATS: Final = frozenset((*OPENED_FORMATS, "MPO"))
"""Pillow's names of what is served. MPO is opened as JPEG; its first picture is used."""

SERVED_NAMES: Final = "JPEG, MPO, PNG, WebP, AVIF, TIFF, GIF, BMP, JPEG 2000, PPM/PGM/PBM and ICO"
"""The same for people."""

SAFE_KIND: Final = "PNG or JPEG of 8 bits"
"""What to save an image as whose kind is not served, though its format is."""

_REFUSED_SIGNATURES: Final = (
    (0, b"%PDF-", "PDF"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"%!PS", "PostScript (EPS)"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"qoif", "QOI"),
    (0, b"P7\n", "PAM"),
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
    (0, b"IIRO", "camera raw (ORF)"),
    (0, b"IIRS", "camera raw (ORF)"),
    (0, b"MMOR", "camera raw (ORF)"),
    (0, b"IIU\0", "camera raw (RW2)"),
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

_CR2_SIGNATURE: Final = b"II*\0\x10\0\0\0CR\x02"
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _STRIP_OFFSETS, _TILE_OFFSETS, _SUB_IFDS, _DNG_VERSION = (
    254, 256, 257, 273, 324, 330, 50706,
)  # fmt: skip
_REDUCED_IMAGE: Final = 1
"""The bit of _SUBFILE_TYPE."""
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The markers of headers that say how many bits a sample has. ITU-T T.81, annex B."""


def refusal(data: bytes | bytearray) -> str | None:
    """Why a whole file that Pillow does not open is not served, and what to send; None if it is torn or no image."""
    tags = _tiff_tags(data)
    if (name := refused_format(data) or camera_raw(data, tags)) is not None:
        return not_served(name)
    if (kind := _refused_kind(data, tags)) is not None:
        return f"{kind} is not served, or its header is damaged; save it anew as {SAFE_KIND} and send that"
    return None


def not_served(name: str) -> str:
    """The message."""
    return f"{name} is not served; send one of {SERVED_NAMES}"


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
    if b"crx " in brands:
        return "camera raw (CR3)"
    return "HEIC/HEIF" if brands & _HEIF_BRANDS else "MP4 or QuickTime video"


def camera_raw(data: bytes | bytearray, tags: Mapping[int, Any]) -> str | None:
    """Name of the camera raw that a TIFF with these tags is; None for a picture.

    Its first directory is a preview of the picture, often a thumbnail; what the camera saw is in another one.
    """
    if data[: len(_CR2_SIGNATURE)] == _CR2_SIGNATURE:
        return "camera raw (CR2)"
    if _DNG_VERSION in tags:
        return "camera raw (DNG)"
    subfile_type = tags.get(_SUBFILE_TYPE, 0)
    reduced = isinstance(subfile_type, int) and subfile_type & _REDUCED_IMAGE
    return "camera raw (NEF, ARW or the like)" if reduced and _SUB_IFDS in tags else None


def _tiff_tags(data: bytes | bytearray) -> Mapping[int, Any]:
    """The first directory of a TIFF, as far as it can be read; empty for any other file."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(bytes(data[: 16 if data[2:3] == b"+" else 8]))
        file = LimitedFile(data)
        file.seek(directory.next)
        directory.load(file)
    except (SyntaxError, struct.error):
        return {}
    return directory


def _refused_kind(data: bytes | bytearray, tags: Mapping[int, Any]) -> str | None:
    """What a JPEG or TIFF that Pillow does not open is; None if its header does not say so much."""
    bits = _jpeg_bits(data)
    if 2 <= bits <= 16 and bits != 8:
        return f"JPEG of {bits} bits a sample"
    told = {_WIDTH, _HEIGHT} <= tags.keys() and not tags.keys().isdisjoint((_STRIP_OFFSETS, _TILE_OFFSETS))
    return "this kind of TIFF" if told else None


def _jpeg_bits(data: bytes | bytearray) -> int:
    """Bits a sample, as the header of the frame declares them; 0 if there is none."""
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    for _ in range(MAX_SEGMENTS):
        if data[position : position + 1] != b"\xff" or position + 4 >= len(data):
            return 0
        if data[position + 1] in _JPEG_FRAMES:
            return data[position + 4]
        # behind the marker: two bytes with the length of the segment, themselves included
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0


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
