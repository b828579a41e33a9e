"""stub"""

from __future__ import annotations

from deploy.run_folder import Running


def set_canary(running: Running, name: str, version: str, share: float) -> None: ...
def clear_canary(running: Running, name: str) -> None: ...
def require_front(running: Running) -> None: ...
