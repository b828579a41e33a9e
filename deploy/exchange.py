"""What a client sends, and what it makes of an answer that is not what it asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from segserve.errors import ServerError
from segserve.request import CONTENT_TYPES


@dataclass(frozen=True)
class Body:
    """What httpx is to send: the photo alone, or a form with it."""

    headers: dict[str, str]
    content: bytes | None = None
    fields: dict[str, str] | None = None
    files: dict[str, bytes] | None = None


def form(image: bytes, classes: Sequence[str]) -> Body:
    """A form only where it must be one: the server has less to do with plain bytes."""
    if not classes:
        return Body({"Content-Type": "application/octet-stream"}, image)
    return Body({}, fields={"classes": ",".join(classes)}, files={"data": image})


def message(answer: httpx.Response) -> str:
    """What an answer that is not 200 says, whether our handler wrote it or TorchServe."""
    try:
        body = answer.json()
        said = str(body["error"]["message"] if "error" in body else body["message"])
    except (ValueError, KeyError, TypeError):
        said = (
            "more bytes than the server takes (max_request_size)"
            if answer.status_code == 413
            else answer.text
        )
    if "Token Authorization failed" in said:
        said += "; pass the key file of the server: --token-file RUN/key_file.json"
    return f"{answer.status_code} {answer.reason_phrase}: {said.strip() or 'no reason given'}"


def stranger(url: str, answer: httpx.Response, answer_format: str) -> ServerError | None:
    """What is wrong with a 200 that is no answer of ours, such as the page of a proxy that wants a login."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("", CONTENT_TYPES[answer_format]):
        return None
    return ServerError(
        f"{url} answered with {kind}, expected {CONTENT_TYPES[answer_format]}: is that the address of the inference "
        "API, and nothing before it that wants a login?"
    )
