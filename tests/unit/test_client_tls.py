"""The client and `deploy.segment` before a server whose certificate is of the user's own CA, or wrong."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from deploy import segment
from deploy.client import Client
from deploy.retry import Retry
from segserve.errors import ServerError, UsageError
from tests.certificates import certificate
from tests.serving_http import reply, serving

RESULT = {"image": {"width": 1, "height": 1}, "model": {"name": "rooms", "version": "1.0"}, "classes": []}


def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """The body, or where JSON is asked for, that."""
    reply(handler, json.dumps(RESULT).encode() if "json" in handler.headers["Accept"] else body)


@contextmanager
def with_certificate(folder: Path, valid_for: str = "IP:127.0.0.1") -> Iterator[str]:
    """A server with FOLDER/cert.pem."""
    certificate(folder, "rooms", valid_for)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with serving(answer, tls) as url:
        yield url


def test_a_certificate_of_the_users_own_ca(tmp_path: Path) -> None:
    with with_certificate(tmp_path) as url:
        with Client(url, "rooms", ca_file=tmp_path / "cert.pem") as client:
            assert client.segment(b"photo", "png") == b"photo"
        with (
            Client(url, "rooms") as client,
            pytest.raises(
                ServerError, match=rf"certificate of {url} does not pass: self.signed .*ca_file=.*--ca-file"
            ),
        ):
            client.segment(b"photo", "png")


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    with (
        with_certificate(tmp_path, "DNS:rooms.example") as url,
        Client(url, "rooms", ca_file=tmp_path / "cert.pem") as client,
        pytest.raises(ServerError, match=r"IP address mismatch.*; call the server by"),
    ):
        client.segment(b"photo", "png")


def test_a_server_without_tls_is_told_from_none() -> None:
    with (
        serving(answer) as url,
        Client(url.replace("http:", "https:"), "rooms", retry=Retry(unreachable_s=0)) as client,
        pytest.raises(ServerError, match=r"no TLS with https://.*SSL.*; .* is at http://"),
    ):
        client.segment(b"photo", "png")


@pytest.mark.parametrize("content", [None, "", "torn"])
def test_a_ca_file_that_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(UsageError, match=r"CA file .*ca\.pem: .*; expected a PEM file of certificates"):
        Client("https://127.0.0.1:1", "rooms", ca_file=tmp_path / "ca.pem")


def test_the_command_takes_the_ca_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, out = tmp_path / "photo.jpg", tmp_path / "out"
    photo.write_bytes(b"photo")
    with with_certificate(tmp_path) as url:
        config = segment.Config((photo,), out, url=url, ca_file=tmp_path / "cert.pem", json=True)
        assert segment.main(config) == 0
    assert (out / "mask.png").read_bytes() == b"photo"
    assert json.loads(capsys.readouterr().out)[0]["model"] == RESULT["model"]
