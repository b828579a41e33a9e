"""The options of `python -m deploy.front`, one class for each of its commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from segserve.errors import UsageError


@dataclass(frozen=True)
class Start:
    """Start nginx before the server of the run folder and return when it listens."""

    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback the server must run with tokens (deploy.server start --auth token)."""
    port: int = 8090
    """Port to listen on."""
    certificate: Path | None = None
    """PEM file with the certificate and its chain: turns TLS on."""
    key: Path | None = None
    """PEM file with its key."""
    names: tuple[str, ...] = ()
    """Host names that requests may be for; others get 421 (default: any)."""
    max_in_flight: int | None = None
    """Requests that are taken at a time, the others get 503 at once (default: the server's job_queue_size and a tenth,
    so that the server refuses some too, and its metrics show that). Give more where workers have large batches: beside
    its queue a server holds batchSize for each."""
    run_dir: Path = Path("run")
    """Run folder of the server."""

    def __post_init__(self) -> None:
        for option, path in (("--certificate", self.certificate), ("--key", self.key)):
            if path is not None and not path.is_file():
                raise UsageError(f"{option} {path}: no such file")


@dataclass(frozen=True)
class Status:
    """What runs. Exit code 0: the front runs; 1: it does not."""

    run_dir: Path = Path("run")
    json: bool = False


@dataclass(frozen=True)
class Stop:
    """Answer what is in flight, then stop nginx. The server keeps running."""

    run_dir: Path = Path("run")


@dataclass(frozen=True)
class Reload:
    """Take up renewed certificates. No request is lost."""

    run_dir: Path = Path("run")


@dataclass(frozen=True)
class Rotate:
    """Begin new logs and keep the last five: for cron, daily."""

    run_dir: Path = Path("run")


@dataclass(frozen=True)
class CanaryOptions:
    """Send a share of a model's requests to a version that is not its default, or stop that."""

    name: tyro.conf.Positional[str]
    """The model."""
    version: tyro.conf.Positional[str | None] = None
    """The version; it must have a READY worker."""
    share: float | None = None
    """Above 0, up to 1, such as 0.05."""
    off: bool = False
    """All requests go to the default version again."""
    run_dir: Path = Path("run")

    def __post_init__(self) -> None:
        if self.off == (self.share is not None) or self.off == (self.version is not None):
            raise UsageError("expected NAME VERSION --share SHARE, or NAME --off")


Command = (
    Annotated[Start, tyro.conf.subcommand("start")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Stop, tyro.conf.subcommand("stop")]
    | Annotated[Reload, tyro.conf.subcommand("reload")]
    | Annotated[Rotate, tyro.conf.subcommand("rotate")]
    | Annotated[CanaryOptions, tyro.conf.subcommand("canary")]
)


@dataclass(frozen=True)
class Options:
    """What to do."""

    command: Annotated[Command, tyro.conf.arg(name="")]
