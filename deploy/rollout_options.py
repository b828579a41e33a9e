"""Options of `deploy.rollout`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from segserve.errors import UsageError


@dataclass(frozen=True)
class RolloutConfig:
    """What comes into service, and what it may cost."""

    mar: tyro.conf.Positional[Path]
    """The new version, a package of export.build."""
    run_dir: Path = Path("run")
    """Folder of the server."""
    allow_class_change: bool = False
    """Other classes than the version in service: clients are ready for them."""
    shadow: Path | None = None
    """Folder of photos that both versions segment, besides the golden ones, before the new one is reached."""
    max_disagreement: float = 0.5
    """1 - IoU of the two versions' masks that any class may have over all these photos; 1 allows anything."""
    max_slowdown: float = 2.0
    """How many times as long the new version may take."""
    canary: float = 0.0
    """Share of requests that reach the new version before it is the default, through `deploy.front`."""
    canary_s: float = 60.0
    """How long it is watched at that share."""
    watch_s: float = 30.0
    """How long it is watched as the default before the old version goes."""
    max_error_share: float = 0.01
    """Share of 5xx among its answers."""
    max_share_change: float = 0.3
    """Share of pixels that may go to other classes than before, over all answers."""
    max_growth_mib: float = 300.0
    """What its workers may grow by while it is watched."""
    keep: bool = False
    """Keep the old version warm, for `python -m deploy.rollback`; otherwise it is unregistered and removed."""
    ready_timeout_s: float = 120.0
    """How long its workers may take to start."""
    out: Path = Path("out/rollout")
    """Folder for the picture of the worst disagreement."""
    json: bool = False
    """Print what was found as JSON."""

    def __post_init__(self) -> None:
        if self.shadow is not None and not self.shadow.is_dir():
            raise UsageError(f"--shadow {self.shadow}: no such folder")
        if not 0 <= self.canary < 1:
            raise UsageError(f"--canary {self.canary}: expected a share from 0 to below 1, such as 0.05")
        for field in ("max_disagreement", "max_error_share", "max_share_change"):
            if not 0 <= getattr(self, field) <= 1:
                raise UsageError(f"--{field.replace('_', '-')} {getattr(self, field)}: expected 0 to 1")
        for field in ("max_slowdown", "canary_s", "watch_s", "max_growth_mib", "ready_timeout_s"):
            if getattr(self, field) <= 0:
                raise UsageError(f"--{field.replace('_', '-')} {getattr(self, field)}: expected more than 0")
