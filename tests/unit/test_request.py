"""What a client may ask for, and by which words."""

from __future__ import annotations

import pytest

from segserve.accept_header import accepts_gzip
from segserve.errors import BadImage, FormatNotAcceptable, RequestError, UnknownClass
from segserve.request import CONTENT_TYPES, MAX_TEXT_BYTES, Request, choose_classes, choose_format, parse

CLASSES = ("wall", "floor", "ceiling")
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,*/*;q=0.8"


# --- format ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "accept", "expected"),
    [
        (None, None, "png"),
        (None, "", "png"),
        (None, "*/*", "png"),
        (None, "image/*", "png"),
        (None, "application/*", "json"),
        (None, "application/json", "json"),
        (None, "APPLICATION/JSON; charset=utf-8", "json"),
        (None, "application/x-npy", "npy"),
        (None, "image/jpeg", "overlay"),
        (None, "text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", "png"),
        (None, FIREFOX, "png"),
        (None, "image/png;q=0.5, application/json;q=0.9", "json"),
        (None, "image/png;q=0.5, application/json ; Q = 0.9", "json"),
        (None, "application/json, text/plain, */*", "json"),
        (None, "image/jpeg, image/png", "png"),
        (None, "image/png;q=0, image/*", "overlay"),
        (None, "*/*, image/*;q=0", "json"),
        (None, "application/json;q=nonsense", "json"),
        (None, "application/json;q=7, image/png;q=nan", "png"),
        (None, ",;,image/jpeg,,", "overlay"),
        ("overlay", "application/json", "overlay"),
        (" JSON ", None, "json"),
        ("image/jpeg", None, "overlay"),
        ("", "application/x-npy", "npy"),
    ],
)
def test_choice_of_format(wanted: str | None, accept: str | None, expected: str) -> None:
    assert choose_format(wanted, accept) == expected


@pytest.mark.parametrize(
    ("wanted", "accept"),
    [
        ("bmp", None),
        ("bmp", "image/png"),
        (None, "text/html"),
        (None, "image/png;q=0"),
        (None, "*/*;q=0"),
        (None, "nonsense"),
        ("x" * 5000, None),
    ],
)
def test_a_format_that_does_not_exist(wanted: str | None, accept: str | None) -> None:
    with pytest.raises(FormatNotAcceptable) as raised:
        choose_format(wanted, accept)
    assert raised.value.status == 406
    message = str(raised.value)
    assert all(f"{name} ({media_type})" in message for name, media_type in CONTENT_TYPES.items())
    assert len(message) < 500


# --- classes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, None), ("", None), (" , ", None), ("floor", (1,)), ("ceiling, Wall,ceiling,", (0, 2))],
)
def test_choice_of_classes(wanted: str | None, expected: tuple[int, ...] | None) -> None:
    assert choose_classes(wanted, CLASSES) == expected


def test_an_unknown_class_lists_the_known_ones() -> None:
    with pytest.raises(UnknownClass, match=r"no class 'sky, 1'; it knows wall, floor, ceiling") as raised:
        choose_classes("sky,floor,1", CLASSES)
    assert raised.value.status == 422


@pytest.mark.parametrize(
    ("wanted", "names", "expected"),
    [
        ("bed, double", ("wall", "bed, double"), (1,)),
        ("wall,Bed, Double,WALL", ("wall", "bed, double"), (0, 1)),
        ("bed, double", ("bed", "double", "bed, double"), (2,)),
        ("bed,double", ("bed", "double", "bed, double"), (0, 1)),
        ("double, bed", ("bed", "double", "bed, double"), (0, 1)),
        ("a,b", ("a", "b", "A,B"), (0, 1)),
        ("A,b", ("a", "b", "A, b"), (0, 1)),
        ("a,b,c", ("a,b", "b,c", "c"), (0, 2)),
        (",", ("wall", ","), (1,)),
        ("Door", ("Door", "door"), (0,)),
        ("door", ("Door", "door"), (1,)),
        ("door, Door", ("Door", "door"), (0, 1)),
        (" wall", (" wall", "wall"), (0,)),
        ("wall", (" wall", "wall"), (1,)),
        ("wall", (" wall",), (0,)),
        ("floor, Wall ", (" wall", "floor"), (0, 1)),
        ("STRASSE", ("floor", "Stra\u00dfe"), (1,)),
    ],
)
def test_classes_of_every_name_can_be_asked_for(
    wanted: str, names: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    assert choose_classes(wanted, names) == expected


def test_of_a_name_with_commas_what_is_unknown_is_listed() -> None:
    with pytest.raises(UnknownClass, match=r"no class 'triple, bed'; it knows bed, double"):
        choose_classes("triple,bed,bed, double", ("bed, double",))


@pytest.mark.parametrize("as_type", [bytes, bytearray, lambda data: data.decode()])
@pytest.mark.parametrize(("name", "refusal"), [("format", FormatNotAcceptable), ("classes", UnknownClass)])
def test_a_field_longer_than_all_names_is_refused_before_it_is_taken_apart(
    name: str, refusal: type[RequestError], as_type: type[bytes]
) -> None:
    most = MAX_TEXT_BYTES + len("wall,floor,ceiling,")
    named = {"format": b"json", "classes": b"floor"}[name]
    longest = parse(Request({"body": b"x", name: as_type(named.ljust(most))}), CLASSES)
    assert (longest.format, longest.class_ids) == {"format": ("json", None), "classes": ("png", (1,))}[name]
    with pytest.raises(
        refusal, match=rf"^field '{name}' has 4,116 bytes, 4,115 are allowed; an image"
    ) as raised:
        parse(Request({"body": b"x", name: as_type(named.ljust(most + 1))}), CLASSES)
    assert raised.value.status == {"format": 406, "classes": 422}[name]


def test_all_classes_of_a_model_with_many_can_be_named() -> None:
    names = [f"{'x' * 60} {number}" for number in range(256)]
    wanted = parse(Request({"body": b"x", "classes": ", ".join(names).encode()}), names)
    assert wanted.class_ids == tuple(range(256))


# --- the image in the request -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"body": b"\x89PNG", "format": "json", "classes": "floor"},
        {"data": bytearray(b"\x89PNG"), "format": bytearray(b"json"), "classes": bytearray(b"floor")},
        {
            "body": b"",
            "data": "\x7fPNG".replace("\x7f", "P"),
            "format": b"application/json",
            "classes": "floor",
        },
    ],
)
def test_fields_of_every_kind(fields: dict[str, object]) -> None:
    wanted = parse(Request(fields), CLASSES)
    assert bytes(wanted.image)[-3:] == b"PNG"
    assert (wanted.format, wanted.class_ids) == ("json", (1,))


FORM = b'--1f\r\nContent-Disposition: form-data; name="data"\r\n\r\n\x89PNG\r\n--1f--\r\n'
LACKS_BOUNDARY = "^the form's Content-Type lacks its boundary; let your client set that header$"


@pytest.mark.parametrize(
    ("fields", "headers", "message"),
    [
        ({}, {}, "no image"),
        ({"body": bytearray()}, {}, "no image"),
        ({"image": b"\x89PNG"}, {}, "'data'"),
        ({"body": {"instances": [1]}}, {"content-type": "application/json"}, "JSON"),
        ({"body": b'{"instances": [1]}'}, {"content-type": "application/json"}, "JSON"),
        ({"body": bytearray(b" \r\n\t[1]")}, {"content-type": "application/json"}, "JSON"),
        ({"body": {}}, {}, "JSON"),
        ({"data": []}, {}, "JSON"),
        ({"data": b"{}"}, {}, "JSON"),
        ({"\x89PNG": b""}, {"content-type": "application/x-www-form-urlencoded"}, "Content-Type"),
        ({"body": FORM}, {"content-type": "multipart/form-data"}, LACKS_BOUNDARY),
        (
            {"body": bytearray(b"\r\n" + FORM)},
            {"content-type": "Multipart/Form-Data; charset=utf-8"},
            LACKS_BOUNDARY,
        ),
    ],
)
def test_a_request_without_an_image(fields: dict[str, object], headers: dict[str, str], message: str) -> None:
    with pytest.raises(BadImage, match=message):
        parse(Request(fields, headers), CLASSES)


def test_a_file_in_a_form_may_begin_with_dashes() -> None:
    headers = {"content-type": "multipart/form-data; boundary=1f"}
    assert parse(Request({"data": b"--no image"}, headers), CLASSES).image == b"--no image"


def test_a_photo_that_is_only_called_a_form_is_taken() -> None:
    headers = {"content-type": "multipart/form-data"}
    assert parse(Request({"body": b"\x89PNG"}, headers), CLASSES).image == b"\x89PNG"


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, False), ("", False), ("identity", False), ("br, deflate", False), ("gzip;q=0, *", False),
        ("gzip", True), ("GZIP", True), ("gzip, deflate, br, zstd", True), ("*", True), ("*;q=0, gzip;q=0.1", True),
    ],
)  # fmt: skip
def test_who_unpacks_gzip(header: str | None, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("sent", "queued_ms"),
    [
        ("t=1699999999.750", 250),
        (" 1699999999.75 ", 250),
        ("t=1699999400", 600_000),
        ("t=1700000000.5", 0),  # clocks differ a little
        ("t=1699999399", None),  # longer ago than anything waits
        ("t=1700000002", None),  # the future
        ("t=1699999999750", None),  # milliseconds
        ("t=-5", None),
        ("t=nan", None),
        ("t=1e9", None),
        ("t=1699999999.750, t=1699999999.9", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_time_in_the_queue_is_known_where_a_proxy_says_when_it_began(
    sent: str, queued_ms: float | None
) -> None:
    assert Request({}, {"x-request-start": sent}).queued_ms(NOW_S) == queued_ms
    assert Request({}).queued_ms(NOW_S) is None


def test_bytes_of_a_body_and_of_a_form() -> None:
    assert Request({"body": bytearray(b"12345")}).num_bytes() == 5
    assert Request({"data": b"123", "format": "npy", "json": {"a": 1}}).num_bytes() == 6
