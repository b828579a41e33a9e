"""The inference API as a Python call: image bytes in, an answer in one of the formats out, errors in words."""

from __future__ import annotations

from types import TracebackType

import httpx

from deploy.addresses import is_loopback
from segserve.errors import CheckFailed, ServerError
from segserve.request import CONTENT_TYPES

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 300.0
"""The largest photos on a slow CPU, behind a full queue."""


class Refused(CheckFailed):
    """The server answered, but not with what was asked for. `http_status` says why, the message is the server's."""

    def __init__(self, http_status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status


class Client:
    """Thread-safe. Close it, or use it in a `with`."""

    def __init__(self, url: str, model: str, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url
        self._path = f"/predictions/{model}"
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        # HTTP_PROXY is for the way out: a proxy could not reach this machine's own loopback
        through_proxy = not is_loopback(httpx.URL(url).host)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=through_proxy)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: object, _traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def segment(self, image: bytes, answer_format: str) -> bytes:
        """Body of the answer in one of `segserve.request.CONTENT_TYPES`.

        Raises: Refused for any status but 200; ServerError if there is no server, or it went away.
        """
        headers = {"Accept": CONTENT_TYPES[answer_format], "Content-Type": "application/octet-stream"}
        try:
            answer = self._http.post(self._path, content=image, headers=headers)
        except httpx.ConnectError:
            raise ServerError(f"no server at {self._url}; start one: make serve") from None
        except httpx.TransportError as error:
            raise ServerError(f"{self._url} did not answer: {type(error).__name__} {error}") from None
        if answer.status_code != 200:
            raise Refused(answer.status_code, message(answer))
        return answer.content


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
