"""The options of `python -m deploy.server`, one class for each of its commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segserve.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Start:
    """Start the server and wait until every model has a READY worker."""

    model_store: Path = Path("model_store")
    """Folder with the .mar files."""
    models: tuple[str, ...] = ()
    """NAME=FILE in the model store, one or more; all must load, and of several versions of a model the first is the
    default. Without it, what the run folder served last, rollouts included; the first time, rooms=rooms.mar."""
    host: str | None = None
    """Address to listen on (default: as in --config). Beyond loopback, tokens are on."""
    port: int | None = None
    """Port of the inference API (default: as in --config)."""
    metrics_port: int | None = None
    """Port of /metrics (default: as in --config)."""
    metrics_host: str | None = None
    """Address that /metrics listens on (default: as in --config, which is loopback). It never asks for a token, so give
    another one only where nobody but Prometheus reaches it, as in a container."""
    run_dir: Path = Path("run")
    """Folder of this server: sockets, logs, tokens. Made private."""
    auth: Literal["none", "token"] = "none"
    """`token`: clients need a token of RUN/key_file.json."""
    config: Path = REPOSITORY / "config.properties"
    """TorchServe's settings."""
    ready_timeout_s: float = 120.0
    """How long the workers may take to start."""
    detach: bool = False
    """Return when ready and leave the server in the background."""

    def __post_init__(self) -> None:
        if not self.model_store.is_dir():
            raise UsageError(
                f"--model-store {self.model_store}: no such folder; `make serve` fills model_store/"
            )
        for option, port in (("--port", self.port), ("--metrics-port", self.metrics_port)):
            if port is not None and not 0 < port < 65536:
                raise UsageError(f"{option} {port}: expected 1 to 65535")
        if self.ready_timeout_s <= 0:
            raise UsageError(f"--ready-timeout-s {self.ready_timeout_s}: expected more than 0")


@dataclass(frozen=True)
class Attach:
    """Stay with a server that was started with --detach: Ctrl-C and SIGTERM stop it, its end ends this."""

    run_dir: Path = Path("run")


@dataclass(frozen=True)
class Stop:
    """Stop the server and everything that belongs to it."""

    run_dir: Path = Path("run")


@dataclass(frozen=True)
class RenewTokens:
    """Make new tokens, before or after the old ones expire. They are written to RUN/key_file.json."""

    run_dir: Path = Path("run")


Command = Annotated[Start | Attach | Stop | RenewTokens, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Options:
    """What to do."""

    command: Command
