"""From settings and canaries to the text of nginx's configuration: deploy/nginx/front.conf with its gaps filled.

Everything that gets into the text is checked here first, so that no option can add a directive.
"""

from __future__ import annotations

import os
import pwd
import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segserve.errors import ServerError, UsageError

TEMPLATE = Path(__file__).with_name("nginx") / "front.conf"
NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""Of a model or a version, as a part of a path: no dots in front, so it can't be `..`."""
HOST: Final = r"[A-Za-z0-9_.-]+"
"""A name or an IPv4 address, as TorchServe takes them."""
ANSWER_TIMEOUT_S = 300
"""The largest photos on a slow CPU, behind a full queue; as the client has it."""
MOST_FILES = 16384
SMALLEST_SHARE = 0.0001
"""nginx counts shares in hundredths of a percent."""


@dataclass(frozen=True)
class Canary:
    """That share of a model's requests that name no version goes to this one. share: above 0, up to 1."""

    version: str
    share: float

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.version):
            raise UsageError(f"version {self.version!r}: the front serves versions of letters, digits, _ . -")
        if not SMALLEST_SHARE <= self.share <= 1:
            raise UsageError(f"--share {self.share}: expected {SMALLEST_SHARE} to 1, such as 0.05")


@dataclass(frozen=True)
class FrontSettings:
    """What the front was started with. Paths are absolute.

    upstream: HOST:PORT of TorchServe's inference API. names: host names that requests may be for; empty for any.
    """

    folder: str
    upstream: str
    host: str
    port: int
    max_body_bytes: int
    max_in_flight: int
    names: tuple[str, ...] = ()
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        for path in (self.folder, self.certificate or "", self.key or ""):
            if re.search(r"[\"\\$;{}\s]", path):
                raise UsageError(f'{path}: nginx takes no path with blanks or any of " \\ $ ; {{ }}')
        for option, host in (("--host", self.host), *(("--names", name) for name in self.names)):
            if not re.fullmatch(HOST, host):
                raise UsageError(f"{option} {host!r}: expected a host name or an IPv4 address")
        if not 0 < self.port < 65536:
            raise UsageError(f"--port {self.port}: expected 1 to 65535")
        if self.max_in_flight < 1:
            raise UsageError(f"--max-in-flight {self.max_in_flight}: expected 1 or more")
        if (self.certificate is None) != (self.key is None):
            raise UsageError("--certificate and --key: expected both or none")

    @property
    def address(self) -> str:
        """HOST:PORT to listen on."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"{'https' if self.certificate else 'http'}://{self.address}"


def render(settings: FrontSettings, canaries: Mapping[str, Canary]) -> str:
    """The whole configuration. canaries: by model name. Raises: UsageError for a name that the front can't serve."""
    files = _files()
    gaps = {
        "user": f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else "",
        "files": str(files),
        "connections": str(
            files // 2
        ),  # the other half: connections to TorchServe count too, and bodies in files
        "folder": settings.folder,
        "name": NAME,
        "hosts": _hosts(settings.names),
        "splits": "\n".join(_split(*numbered) for numbered in enumerate(canaries.items())),
        "canaries": "\n".join(_route(*numbered) for numbered in enumerate(canaries)),
        "max_body_bytes": str(settings.max_body_bytes),
        "max_in_flight": str(settings.max_in_flight),
        "upstream": settings.upstream,
        "answer_timeout_s": str(ANSWER_TIMEOUT_S),
        "listen": f"{settings.address} backlog=4096{' ssl' if settings.certificate else ''}",
        "tls": _tls(settings),
    }
    return fill(TEMPLATE.read_text(), gaps)


def fill(template: str, gaps: Mapping[str, str]) -> str:
    """Put each value where its name stands in double braces. Raises: ServerError if template and gaps don't fit."""
    wanted = set(re.findall(r"\{\{(\w+)\}\}", template))
    if wanted != set(gaps):
        raise ServerError(
            f"{TEMPLATE} and deploy/front_config.py disagree about {sorted(wanted ^ set(gaps))}"
        )
    return re.sub(r"\{\{(\w+)\}\}", lambda gap: gaps[gap[1]], template)


def _files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)


def _hosts(names: tuple[str, ...]) -> str:
    if not names:
        return "        default 1;"
    return "\n".join(["        default 0;", *(f'        "{name.lower()}" 1;' for name in names)])


def _split(number: int, named: tuple[str, Canary]) -> str:
    # name and version are hashed along, so that each canary draws its requests anew
    name, canary = named
    share = f'{canary.share:.2%} "{canary.version}"'
    return f'    split_clients "{name}/{canary.version}/$id" $canary_{number} {{ {share}; * ""; }}'


def _route(number: int, name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise UsageError(f"model {name!r}: the front serves names of letters, digits, _ . -")
    # as an expression, because nginx compares plain keys of a map without regard to case
    return f'        "~^(plain|invoke):{re.escape(name)}$" $canary_{number};'


def _tls(settings: FrontSettings) -> str:
    if not settings.certificate:
        return ""
    lines = (
        f'ssl_certificate "{settings.certificate}";',
        f'ssl_certificate_key "{settings.key}";',
        "ssl_protocols TLSv1.2 TLSv1.3;",
        # forward secrecy and authenticated encryption only; of TLS 1.3 all are
        "ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;",
        "ssl_session_cache shared:tls:2m;",
        "ssl_session_timeout 1h;",
        "ssl_session_tickets off;",
    )
    return "\n".join(f"        {line}" for line in lines)
