"""What a client may send, how it is sent, and what it makes of an answer that is not what it asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from segserve.errors import ServerError, UsageError
from segserve.request import CONTENT_TYPES

TOKEN: Final = re.compile(r"[!-~]+")
MODEL: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")


class Foreign(ServerError):
    """Somebody else answered, or somebody on the way spoilt the answer. Asking again gets the same."""


@dataclass(frozen=True)
class Body:
    """What httpx is to send: the photo alone, or a form with it."""

    headers: dict[str, str]
    content: bytes | None = None
    fields: dict[str, bytes] | None = None
    files: dict[str, bytes] | None = None


def path_of(model: str) -> str:
    """Raises: UsageError for what no model can be called."""
    if not MODEL.fullmatch(model):
        raise UsageError(
            f"model {model!r}: expected NAME or NAME/VERSION, each of letters, digits, '_', '.' and '-'"
        )
    return f"/predictions/{model}"


def authorization(token: str | None) -> dict[str, str]:
    """Raises: UsageError for what can't be a token."""
    if token and not TOKEN.fullmatch(token):
        raise UsageError("the token has characters that no token has; expected one of RUN/key_file.json")
    return {"Authorization": f"Bearer {token}"} if token else {}


def form(image: bytes, classes: Sequence[str]) -> Body:
    """A form only where it must be one: the server has less to do with plain bytes. Raises: UsageError."""
    if isinstance(classes, str):  # a sequence of names too, each of one letter
        raise UsageError(
            f"classes={classes!r} is one text; expected a list of names, as classes={classes.split(',')}"
        )
    if not classes:
        return Body({"Content-Type": "application/octet-stream"}, image)
    return Body({}, fields={"classes": ",".join(classes).encode("utf-8", "replace")}, files={"data": image})


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


def stranger(url: str, answer: httpx.Response, answer_format: str) -> Foreign | None:
    """What is wrong with a 200 that is no answer of ours, such as the page of a proxy that wants a login."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.status_code != 200 or kind == CONTENT_TYPES[answer_format]:
        return None
    return Foreign(
        f"{url} answered with {kind or 'no Content-Type'}, expected {CONTENT_TYPES[answer_format]}: is that the "
        "address of the inference API, and nothing before it that wants a login?"
    )
