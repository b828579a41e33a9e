"""TLS of the clients: whose certificates they take, and what they say where that or a connection fails."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx

from segserve.errors import ServerError, UsageError

WAYS_OUT: Final = {
    10: "renew it (a front takes it up with `deploy.front reload`)",
    62: "call the server by a name that is in it",
    64: "call the server by an address that is in it",
}
"""By X509_V_ERR_CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL."""
OWN_CA: Final = "if your own CA signed it, give the CA's file: ca_file=… (deploy.segment: --ca-file)"


class Untrusted(ServerError):
    """A certificate that does not pass. Asking again gets the same one."""


def trusted(ca_file: Path | None) -> ssl.SSLContext | bool:
    """What httpx takes as `verify`. Raises: UsageError for a file that holds no certificate."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            f"CA file {ca_file}: {error.strerror}; expected a PEM file of certificates"
        ) from None


def no_connection(url: str, error: httpx.ConnectError) -> ServerError:
    """Nobody is there, or TLS failed: which of them is in the exceptions that this one came from."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            found, way_out = cause.verify_message.rstrip("."), WAYS_OUT.get(cause.verify_code, OWN_CA)
            return Untrusted(f"the certificate of {url} does not pass: {found}; {way_out}")
        if isinstance(cause, ssl.SSLError):
            return ServerError(f"no TLS with {url}: {error}; a server without a certificate is at http://")
    return ServerError(f"no server at {url} ({str(error) or 'it hung up'}); start one: make serve")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
