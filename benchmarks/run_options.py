"""Options of `benchmarks.run`, one class a scenario."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks import mar_settings
from segserve.errors import UsageError
from segserve.labels import ROOM_CLASSES

DEFAULT_MAR = Path("model_store/rooms.mar")
DEFAULT_SLO = Path("benchmarks/slo.toml")
LEAST_CALM_S = 2.0
"""Of a spike, after the warm-up: without answers from before it there is nothing to come back to."""


@dataclass(frozen=True)
class Common:
    """What every scenario needs to know."""

    out: Path
    """Folder for the result; made if it is not there, must be empty."""
    server: str | None = None
    """A server that runs already, http://HOST:PORT; nothing is started or ended then."""
    run_dir: Path | None = None
    """Run folder of that server, if it is on this machine: CPU, memory and its own metrics are taken then."""
    mar: Path = DEFAULT_MAR
    """Package to serve, where --server names no server."""
    model: str = "rooms"
    """Name of the model at --server; a package knows its own."""
    num_classes: int = len(ROOM_CLASSES)
    """Classes of the model at --server; a package knows its own."""
    photos: Path | None = None
    """Folder of photos to send; without it, rendered rooms of 0.3 to 3 MP."""
    formats: str = "png=1"
    """Answer formats and how often each is asked for, such as png=6,json=2,npy=1,overlay=1."""
    slo: Path | None = None
    """Objectives; any that is missed fails the run."""
    warm_s: float = 5.0
    """Load before each measurement, which is not counted."""
    processes: int = 1
    """Locust's load processes."""
    json: bool = False
    """Print result.json instead of the tables."""

    def __post_init__(self) -> None:
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise UsageError(f"--out {self.out} exists and is not an empty folder; name another")
        if self.server is None:
            mar_settings.require_files(self.mar, self.photos)
        elif not self.server.startswith(("http://", "https://")):
            raise UsageError(f"--server {self.server}: expected http://HOST:PORT")
        if self.run_dir is not None and self.server is None:
            raise UsageError("--run-dir goes with --server: it is that server's run folder")
        if self.warm_s < 0 or self.processes < 1:
            raise UsageError("--warm-s: from 0; --processes: at least 1")


@dataclass(frozen=True)
class Capacity(Common):
    """The highest rate of requests at which the objectives hold: one number, with its interval."""

    slo: Path | None = DEFAULT_SLO
    """Objectives that must hold."""
    trial_s: float = 20.0
    """Load at each rate. A short one lets a rate pass at which the queue grows too slowly to be seen: at r % too much,
    latency grows by r % of the time."""
    bisections: int = 4
    """Rates tried to halve the range in which the knee lies."""
    repeats: int = 4
    """More trials close to the knee, for the interval."""
    arrivals: Literal["constant", "poisson"] = "constant"
    """Gaps between requests: all equal, or as of many people who know nothing of each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slo is None or self.trial_s <= 0 or self.bisections < 1 or self.repeats < 0:
            raise UsageError(
                "capacity needs --slo, --trial-s above 0, --bisections from 1 and --repeats from 0"
            )


@dataclass(frozen=True)
class Latency(Common):
    """Percentiles, throughput and where the time goes, over the number of clients."""

    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Closed load: so many requests on their way at any time."""
    level_s: float = 30.0
    """Load at each of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("--concurrency", self.concurrency)
        _positive("--level-s", (self.level_s,))


@dataclass(frozen=True)
class PerGpu(Common):
    """Device, engine, batch size, number of clients: which is fastest, and at what energy."""

    others: tuple[Path, ...] = ()
    """More packages, with other engines."""
    batch_sizes: tuple[int, ...] = (1, 4, 8)
    concurrency: tuple[int, ...] = (1, 8, 32)
    level_s: float = 20.0
    """Load at each combination."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.server is not None:
            raise UsageError("per-gpu starts a server for each batch size: give --mar, not --server")
        for path in self.others:
            mar_settings.require_files(path, None)
        _positive("--batch-sizes", self.batch_sizes)
        _positive("--concurrency", self.concurrency)
        _positive("--level-s", (self.level_s,))


@dataclass(frozen=True)
class Soak(Common):
    """The same load for long: what grows?"""

    users: int = 4
    minutes: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("--users, --minutes", (self.users, self.minutes))


@dataclass(frozen=True)
class Spike(Common):
    """Calm, many at once, calm: how bad does it get, and how soon is it over?"""

    calm_users: int = 2
    spike_users: int = 32
    calm_s: float = 30.0
    spike_s: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("--calm-users, …", (self.calm_users, self.spike_users, self.calm_s, self.spike_s))
        if self.calm_s < self.warm_s + LEAST_CALM_S:
            raise UsageError(
                f"--calm-s {self.calm_s:g}: expected at least {self.warm_s + LEAST_CALM_S:g}, as the first "
                f"{self.warm_s:g} s are the warm-up (--warm-s) and what comes after the spike is held against the rest"
            )


@dataclass(frozen=True)
class Swap(Common):
    """A rollout in the middle of the load: what does a client notice?"""

    new: Path = field(kw_only=True)
    """Package of the same model with another version number."""
    users: int = 4
    calm_s: float = 30.0
    """Load before the rollout, and after it."""
    watch_s: float = 15.0
    """As of deploy.rollout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        mar_settings.require_files(self.new, None)
        if self.server is not None and self.run_dir is None:
            raise UsageError("swap with --server needs --run-dir: the rollout is done through it")
        _positive("--users, --calm-s, --watch-s", (self.users, self.calm_s, self.watch_s))


def _positive(option: str, values: tuple[float, ...]) -> None:
    if not values or min(values) <= 0:
        raise UsageError(f"{option}: expected numbers above 0, got {' '.join(map(str, values)) or 'none'}")
