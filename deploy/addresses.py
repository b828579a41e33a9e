"""Host names and ports: where the server listens, and whether that is this machine alone."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import httpx

from segserve.errors import UsageError


def address(properties: dict[str, str], key: str, host: str | None, port: int | None) -> tuple[str, int]:
    """Host and port: from the options where given, otherwise from the configuration. Raises: UsageError."""
    found = properties.get(key, "")
    try:
        parts = urlsplit(found)
        known = (parts.hostname or "", parts.port or 0)
    except ValueError:  # a port that is no number, or too large
        known = ("", 0)
    if not found.startswith("http://") or not all(known):
        raise UsageError(f"{key}={found} in the configuration; expected http://HOST:PORT")
    if host and ":" in host:
        option = "--metrics-host" if key == "metrics_address" else "--host"
        raise UsageError(f"{option} {host}: TorchServe takes an IPv4 address or a host name, no IPv6 address")
    return host or known[0], port or known[1]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. A name that is not an address counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(url: str) -> str:
    """A server that listens on all addresses is asked on loopback."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def host_of(url: str) -> str:
    """Raises: UsageError for what is no address of a server."""
    try:
        parts = httpx.URL(url)
        if parts.scheme in ("http", "https") and parts.host and (parts.port or 0) < 1 << 16:
            return parts.host
    except httpx.InvalidURL:
        pass
    raise UsageError(f"{url} is no address of a server; expected http://HOST:PORT")
