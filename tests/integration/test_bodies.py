"""Whether TorchServe reads JSON and text for the handler or leaves that be, the answers are the same, byte by byte."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence

import pytest

from segserve.segmenter import Segmenter
from tests.integration.calling import Caller, Served, error_of, mask_of, photo

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # ts.version leaves its file open
    from ts.protocol.otf_message_handler import _retrieve_request
    from ts.service import Service

SETTING = "TS_DECODE_INPUT_REQUEST"
RED, BLUE = (255, 0, 0), (0, 0, 255)
PNG = photo(RED, BLUE, 4, 4)
JSON, TEXT = "application/json", "text/plain"

Parameter = tuple[str, str, bytes]
"""Name, content type, and what the client sent."""


class Wire:
    """In the place of the socket between TorchServe and a worker."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        return taken


def message(parameters: Sequence[Parameter], headers: dict[str, str]) -> bytes:
    """One request in the frames of ts.protocol.otf_message_handler."""

    def sized(*values: str | bytes) -> bytes:
        encoded = (value.encode() if isinstance(value, str) else value for value in values)
        return b"".join(struct.pack("!i", len(value)) + value for value in encoded)

    end = struct.pack("!i", -1)
    return sized("id") + b"".join(sized(*header) for header in headers.items()) + end + b"".join(
        sized(*parameter) for parameter in parameters
    ) + end  # fmt: skip


@pytest.fixture
def serve(colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Caller:
    return Caller(colour_segmenter, monkeypatch, {})


def served(
    serve: Caller, monkeypatch: pytest.MonkeyPatch, parameters: Sequence[Parameter], setting: str | None
) -> Served:
    if setting is None:
        monkeypatch.delenv(SETTING, raising=False)
    else:
        monkeypatch.setenv(SETTING, setting)
    headers = {"Content-Type": parameters[0][1]}
    _, [fields], _ = Service.retrieve_data_for_inference([
        _retrieve_request(Wire(message(parameters, headers)))
    ])  # fmt: skip
    [answer] = serve(fields, headers=[headers])
    return answer


@pytest.mark.parametrize(
    ("parameters", "status", "words"),
    [
        ([("body", JSON, b'{"instances": [1]}')], 400, "the body is JSON"),
        ([("body", JSON, b" [1, 2]")], 400, "the body is JSON"),
        ([("body", JSON, b"{}")], 400, "the body is JSON"),
        ([("body", JSON, b"[")], 400, "the body is JSON"),
        ([("body", JSON, b'"words"')], 400, "not an image"),
        ([("body", JSON, b"12")], 400, "not an image"),
        ([("body", JSON, b"null")], 400, "not an image"),
        ([("body", JSON, b"false")], 400, "not an image"),
        ([("body", JSON, b"")], 400, "no image"),
        ([("body", JSON, b"%PDF-1.7")], 415, "PDF"),
        ([("body", TEXT, b"words")], 400, "not an image"),
        ([("body", TEXT, b"\xff\xfe")], 400, "not an image"),
        ([("body", TEXT, b"")], 400, "no image"),
        ([("data", JSON, b'{"a": 1}'), ("format", "", b"json")], 400, "the body is JSON"),
        ([("data", "image/png", PNG), ("format", TEXT, b"bmp")], 406, "'bmp'"),
        ([("data", "image/png", PNG), ("classes", TEXT, b"\xff")], 422, "\ufffd"),
        ([("data", "image/png", PNG), ("classes", TEXT, b"w," * 50_000)], 422, "100,000 bytes"),
    ],
)
def test_refused_alike(
    serve: Caller, monkeypatch: pytest.MonkeyPatch, parameters: list[Parameter], status: int, words: str
) -> None:
    answers = [served(serve, monkeypatch, parameters, setting) for setting in (None, "true", "false")]
    assert error_of(answers[0])[0] == status
    assert words in error_of(answers[0])[2]
    assert [(answer[0], answer[2]) for answer in answers] == [(status, answers[0][2])] * 3


@pytest.mark.parametrize(
    ("parameters", "corners"),
    [
        ([("body", JSON, PNG)], (0, 2)),
        ([("body", TEXT, PNG)], (0, 2)),
        ([("body", TEXT, b"P3 2 1 255 255 0 0 0 0 255")], (0, 2)),
        ([("data", JSON, PNG), ("format", TEXT, b"png"), ("classes", TEXT, b"ceiling")], (255, 2)),
        ([("data", "image/png", PNG), ("format", "", b"image/png"), ("classes", "", b"Wall")], (0, 255)),
    ],
)
def test_answered_alike(
    serve: Caller, monkeypatch: pytest.MonkeyPatch, parameters: list[Parameter], corners: tuple[int, int]
) -> None:
    answers = [served(serve, monkeypatch, parameters, setting) for setting in (None, "true", "false")]
    mask = mask_of(answers[0])
    assert (mask[0, 0], mask[0, -1]) == corners
    assert [answer[2] for answer in answers] == [answers[0][2]] * 3
