"""The control groups that hold this process: where Linux keeps what a container, or a service of systemd, may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def folders(controller: str) -> Iterator[Path]:
    """Of this process's groups and of all around them, of both versions; each may limit the process.

    controller: its name in version 1, such as "cpu" or "memory". A group that is not visible from inside a container is
    passed over: what stands for the container is then the mount itself, the last one.
    """
    for line in read(_OWN).splitlines():  # "0::/a/b" in version 2, "4:cpu,cpuacct:/a/b" in version 1
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = _MOUNT / controller if controllers else _MOUNT
        names = [name for name in group.split("/") if name]
        yield from (mount.joinpath(*names[:depth]) for depth in range(len(names), -1, -1))


def read(path: Path) -> str:
    """What a file of the kernel's says, without blanks around; nothing where it is not there."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
