"""JPEGs that repeat their scans are refused before they cost anything; all others are decoded as ever."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from segserve import jpeg_scans
from segserve.errors import BadImage
from segserve.image import decode

SCAN = b"\xff\xda"


def jpeg(width: int = 64, height: int = 48, **options: object) -> bytes:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "JPEG", **options)
    return file.getvalue()


def with_repeated_last_scan(data: bytes, times: int) -> bytes:
    last = data[data.rindex(SCAN) : -2]
    return data[:-2] + last * times + data[-2:]


def test_scans_are_counted() -> None:
    progressive = jpeg(progressive=True)
    own = progressive.count(SCAN)
    assert own > 5
    assert jpeg_scans.count(progressive) == own
    assert jpeg_scans.count(with_repeated_last_scan(progressive, 100)) == own + 100
    assert jpeg_scans.count(jpeg()) == 1
    assert jpeg_scans.count(jpeg(restart_marker_blocks=1)) == 1


def test_repeated_scans_are_refused_where_they_cost_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_repeated_last_scan(jpeg(progressive=True), 100)
    assert decode(data).shape == (48, 64, 3)  # of a small picture even a hundred are nothing
    monkeypatch.setattr(jpeg_scans, "MAX_SCANNED_PIXELS", 64 * 48 * 50)
    with pytest.raises(BadImage, match="goes over its 3,072 pixels more than 50 times"):
        decode(data)
    with pytest.raises(BadImage, match="goes over"):
        decode(bytearray(data))


def test_the_limit_leaves_room_for_every_usual_photo_of_the_largest_size() -> None:
    jpeg_scans.check(jpeg_scans.count(jpeg(progressive=True)), 64_000_000)
    with pytest.raises(BadImage):
        jpeg_scans.check(jpeg_scans.count(with_repeated_last_scan(jpeg(progressive=True), 50)), 64_000_000)


def test_scans_of_thumbnails_and_of_pictures_behind_the_first_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progressive = jpeg(progressive=True)
    thumbnails = b"\xff\xe1" + (2 + 20 * len(jpeg(8, 8))).to_bytes(2, "big") + 20 * jpeg(8, 8)
    data = progressive[:2] + thumbnails + progressive[2:] + 20 * progressive
    assert jpeg_scans.count(data) == progressive.count(SCAN)
    monkeypatch.setattr(jpeg_scans, "MAX_SCANNED_PIXELS", 64 * 48 * 15)
    np.testing.assert_array_equal(decode(data), decode(progressive))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xda\x00"]
)
def test_what_is_cut_short_is_no_trap(data: bytes) -> None:
    assert jpeg_scans.count(data) <= 1


def test_the_walk_itself_has_an_end() -> None:
    flood = jpeg()[:2] + b"\xff\xfe\x00\x02" * 20_000
    with pytest.raises(BadImage, match="more than 1,000 segments; save it anew"):
        jpeg_scans.count(flood)


def with_exif_segments(data: bytes, times: int) -> bytes:
    """EXIF that turns the picture by 180 degrees, and then goes on in further segments."""
    first = Image.Exif()
    first[0x0112] = 3
    bodies = [first.tobytes(), *[b"Exif\0\0" + bytes(64)] * (times - 1)]
    segments = (b"\xff\xe1" + (2 + len(body)).to_bytes(2, "big") + body for body in bodies)
    return data[:2] + b"".join(segments) + data[2:]


def test_exif_in_many_segments_is_refused_before_pillow_joins_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each joining copies all that came before: 9,900 in 33 MB took 11 s, in which nothing else ran."""
    np.testing.assert_array_equal(decode(with_exif_segments(jpeg(), 300)), decode(jpeg())[::-1, ::-1])
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(BadImage, match="the JPEG has more than 1,000 segments; save it anew") as raised:
        decode(with_exif_segments(jpeg(), 1_000))
    assert raised.value.status == 400
