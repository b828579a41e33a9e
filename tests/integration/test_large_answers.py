"""Label maps go out packed where the client can unpack them, and large answers keep no neighbour waiting."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest

from segserve import batch_bytes
from segserve.segmenter import Segmenter
from tests.integration.calling import Caller, error_of, photo

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def serve(colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Caller:
    return Caller(colour_segmenter, monkeypatch, {})


def test_labels_are_packed_only_for_who_can_unpack_them(serve: Caller) -> None:
    sent = photo(RED, BLUE)
    wants = {"Accept": "application/x-npy"}
    (_, plain_headers, plain), (_, packed_headers, packed), (_, png_headers, _) = serve(
        {"body": sent}, {"body": sent}, {"body": sent},
        headers=[wants, {**wants, "Accept-Encoding": "gzip, deflate"}, {"Accept-Encoding": "gzip"}],
    )  # fmt: skip
    assert "content-encoding" not in plain_headers
    assert packed_headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == plain
    assert "content-encoding" not in png_headers  # packed by itself


def test_large_answers_do_not_keep_their_batch_waiting(
    serve: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_bytes, "MAX_COPIED_BYTES", 1000)
    large = {"body": photo(RED, BLUE, height=200, width=300), "format": "npy"}
    small = {"body": photo(RED, BLUE), "format": "npy"}
    packed, *refused, neighbour = serve(large, large, large, small, headers=[{"Accept-Encoding": "gzip"}])
    assert packed[0] == 200
    for served in refused:
        status, error_type, message = error_of(served)
        assert (status, error_type) == (503, "Overloaded")
        assert served[1]["retry-after"] == "1"
        assert "send it again, or accept gzip (curl --compressed)" in message
    assert neighbour[0] == 200
    assert np.load(io.BytesIO(neighbour[2])).shape == (48, 64)
    [alone] = serve(large)  # so it was worth sending again
    assert alone[0] == 200


def test_an_answer_that_is_too_large_alone_is_refused_for_good(
    colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = Caller(colour_segmenter, monkeypatch, {"segserve": {"max_response_bytes": 5000}})
    [refused] = serve({"body": photo(RED, BLUE, height=200, width=300), "format": "npy"})
    assert error_of(refused)[:2] == (413, "ImageTooLarge")
    assert "retry-after" not in refused[1]
