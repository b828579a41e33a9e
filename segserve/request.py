"""What a client asked for: image bytes, answer format, classes. Pure functions, no server types.

The format is chosen by the field `format`, else by the `Accept` header (RFC 9110, 12.5.1):

    >>> choose_format(None, "text/html,image/avif,image/webp,*/*;q=0.8")    # a browser
    'png'
    >>> choose_format("overlay", "application/json")                        # the field wins
    'overlay'
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from segserve.accept_header import accepts_gzip, media_ranges, rating
from segserve.errors import BadImage, FormatNotAcceptable, UnknownClass

CONTENT_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"png": "image/png", "json": "application/json", "npy": "application/x-npy", "overlay": "image/jpeg"}
)
"""Name of each answer format → media type; the first is the default, the order breaks ties."""

REQUEST_ID_HEADER: Final = "x-request-id"
REQUEST_START_HEADER: Final = "x-request-start"
"""When the first server on the way got the request: `t=SECONDS` since 1970, nginx's `t=$msec`."""
MAX_TEXT_BYTES: Final = 4096
"""Of the fields `format` and `classes`, beyond the names of all classes with their commas: a photo that was sent under
such a name would be taken apart at its commas, and 64 KiB of them took up to 0.25 s in which no other Python runs."""
MAX_QUEUE_S: Final = 600.0
"""Longer than anything waits here: the header is of another clock, or was kept."""
CLOCKS_APART_S: Final = 1.0
"""A request from the future, up to here, has not waited; beyond, the clocks differ too much to say anything."""

# no blanks, quotes, brackets or control characters: nothing that could pass for another field or line of a log
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_START: Final = re.compile(r"(?:t=)?(\d{1,11}(?:\.\d{1,9})?)")

# what no image that is served begins with; a number or a word alone is text, and the decoder refuses that
_JSON: Final = re.compile(rb"[ \t\r\n]*+[{\[]")
_FORM: Final = re.compile(rb"[\r\n]*+--")  # RFC 2046, 5.1.1

_IMAGE_FIELDS: Final = ("body", "data")  # TorchServe's name for a raw body, and ours for a form's file


@dataclass(frozen=True)
class Request:
    """One client's request as the server hands it over.

    `fields` holds the body under `body`, or a form's fields, and query parameters. Values are bytes, or what TorchServe
    makes of JSON and text unless its decode_input_request is false. Header names are in lower case. `server_id` is the
    server's name for the request.
    """

    fields: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)
    server_id: str = "-"

    def num_bytes(self) -> int:
        """Of the body, or of all fields of a form."""
        return sum(len(value) for value in self.fields.values() if isinstance(value, bytes | bytearray | str))

    def id(self) -> str:
        """The client's X-Request-ID where it is one that a log can hold, else the server's own."""
        sent = self.headers.get(REQUEST_ID_HEADER, "")
        return sent if _REQUEST_ID.fullmatch(sent) else self.server_id

    def queued_ms(self, now_s: float) -> float | None:
        """Since X-Request-Start; None without it, or where it makes no sense. now_s: seconds since 1970."""
        found = _START.fullmatch(self.headers.get(REQUEST_START_HEADER, "").strip())
        waited_s = now_s - float(found[1]) if found else -MAX_QUEUE_S
        return 1e3 * max(0.0, waited_s) if -CLOCKS_APART_S <= waited_s <= MAX_QUEUE_S else None


@dataclass(frozen=True)
class Wanted:
    """A request understood. `class_ids` is None where all classes are wanted; `gzip`: the client can unpack it."""

    image: bytes | bytearray
    format: str
    class_ids: tuple[int, ...] | None
    gzip: bool = False


def parse(request: Request, class_names: Sequence[str]) -> Wanted:
    """Raises: FormatNotAcceptable, UnknownClass, BadImage (no image in the request)."""
    longest = MAX_TEXT_BYTES + sum(len(name.encode("utf-8", "replace")) + 1 for name in class_names)
    named_format = _text(request, "format", longest, FormatNotAcceptable)
    named_classes = _text(request, "classes", longest, UnknownClass)
    return Wanted(
        format=choose_format(named_format, request.headers.get("accept")),
        class_ids=choose_classes(named_classes, class_names),
        image=_image(request),
        gzip=accepts_gzip(request.headers.get("accept-encoding")),
    )


def choose_format(wanted: str | None, accept: str | None) -> str:
    """Name of the answer format: a key of CONTENT_TYPES.

    `wanted` (a name or a media type) wins. Of the types that Accept allows, the one of the highest quality is
    taken; among equals a type named in full beats a wildcard, then the order of CONTENT_TYPES decides.

    Raises: FormatNotAcceptable.
    """
    if wanted is not None and wanted.strip():
        name = wanted.strip().lower()
        by_type = {media_type: known for known, media_type in CONTENT_TYPES.items()}
        if (found := name if name in CONTENT_TYPES else by_type.get(name)) is None:
            raise FormatNotAcceptable(f"format '{_shown(name)}' does not exist; {_choices()}")
        return found
    if accept is None or not accept.strip():
        return next(iter(CONTENT_TYPES))
    ranges = media_ranges(accept)
    ratings = {name: rating(media_type, ranges) for name, media_type in CONTENT_TYPES.items()}
    best = max(ratings, key=lambda name: ratings[name])  # the first of equals
    if ratings[best][0] <= 0:
        raise FormatNotAcceptable(
            f"nothing that Accept: {_shown(accept)} allows can be answered; {_choices()}"
        )
    return best


def choose_classes(wanted: str | None, class_names: Sequence[str]) -> tuple[int, ...] | None:
    """Ids of the classes in a comma-separated list of names, in label order; None if it names none.

    A name just as the model has it wins; otherwise letter case and outer blanks are ignored. Of names that hold commas
    themselves ("bed, double" beside "bed") the longest that fits is taken.

    Raises: UnknownClass.
    """
    exact = {name: class_id for class_id, name in enumerate(class_names)}
    folded = {_folded(name): class_id for class_id, name in enumerate(class_names)}
    readings = ((str, exact), (str.strip, exact), (_folded, folded))
    pieces = (wanted or "").split(",")
    most = 1 + max((name.count(",") for name in class_names), default=0)
    chosen, unknown, start = set(), [], 0
    while start < len(pieces):
        texts = [",".join(pieces[start : start + count]) for count in range(most, 0, -1)]
        fitting = ((ids[read(text)], text) for read, ids in readings for text in texts if read(text) in ids)
        class_id, text = next(fitting, (None, pieces[start]))
        if class_id is not None:
            chosen.add(class_id)
        elif text.strip():
            unknown.append(text.strip())
        start += 1 + text.count(",")
    if unknown:
        listed = _shown(", ".join(unknown))
        raise UnknownClass(f"this model has no class '{listed}'; it knows {', '.join(class_names)}")
    return tuple(sorted(chosen)) or None


def _folded(name: str) -> str:
    return name.strip().casefold()


def _image(request: Request) -> bytes | bytearray:
    sent = (_sent(request.fields[name]) for name in _IMAGE_FIELDS if name in request.fields)
    data = next((data for data in sent if data), None)
    content_type = request.headers.get("content-type", "").lower()
    if data is not None and _FORM.match(data) and _is_form_without_boundary(content_type):
        raise BadImage("the form's Content-Type lacks its boundary; let your client set that header")
    if data is not None and not _JSON.match(data):
        return data
    if data is not None:
        raise BadImage(
            "the body is JSON; send the bytes of an image, or a form with the image in field 'data'"
        )
    if content_type.startswith("application/x-www-form-urlencoded"):
        raise BadImage(
            "the body was sent as a urlencoded form, which no image survives; "
            "add the header 'Content-Type: application/octet-stream'"
        )
    raise BadImage("the request holds no image; send its bytes as the body, or in field 'data' of a form")


def _is_form_without_boundary(content_type: str) -> bool:
    """Such a form is a plain body to the server, which hands over the fields of all others."""
    return content_type.startswith("multipart/") and "boundary=" not in content_type


def _sent(value: object) -> bytes | bytearray:
    """The bytes that a client sent, or as good as those where the server has made something of them."""
    if isinstance(value, bytes | bytearray):
        return value
    if isinstance(value, dict | list):
        return b"{}"  # which JSON it was does not matter
    # sent as text/…: an ASCII PPM, or no image, which the decoder says better; JSON can bring half a surrogate pair
    return str(value).encode("utf-8", "replace")


def _text(
    request: Request, name: str, most: int, refusal: type[FormatNotAcceptable | UnknownClass]
) -> str | None:
    """A field's text, of at most so many bytes. Raises: refusal."""
    value = request.fields.get(name)
    if value is None:
        return None
    text = value if isinstance(value, bytes | bytearray) else str(value)
    if len(text) > most:
        raise refusal(
            f"field '{name}' has {len(text):,} bytes, {most:,} are allowed; an image belongs into the body or into "
            "field 'data'"
        )
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def _shown(text: str) -> str:
    """What a client sent, short enough for a message."""
    return text if len(text) <= 100 else text[:100] + "…"


def _choices() -> str:
    listed = ", ".join(f"{name} ({media_type})" for name, media_type in CONTENT_TYPES.items())
    return f"choose one of {listed} by field 'format' or by the Accept header"
