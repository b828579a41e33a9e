"""Processes and ports of this machine: who is alive, who belongs to a server, who holds a port.

The model server is the leader of a session of its own, and its workers stay in that session even when the server
is gone. So the session, not the parent, says what belongs to it, and nothing is ever ended by name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from segserve.cli import command
from segserve.errors import UsageError

POLL_S = 0.05
GOING = (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, PermissionError)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask until it holds or the time is over. Returns: whether it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def identity(pid: int) -> str:
    """With the pid it names a process for good: the boot and the clock tick of its start. Empty if there is none.

    Unlike a time of day they stay as they are when the clock is set (proc_pid_stat(5), starttime).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # the name in brackets may hold anything; the fields after it are counted from 3, the state
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, start_ticks = fields[0], fields[22 - 3]
    return "" if state in "ZX" else f"{boot} {start_ticks}"


def exists(pid: int) -> bool:
    """Whether it is there and has not ended (a zombie has)."""
    return bool(identity(pid))


def session_members(session: int) -> list[int]:
    """The pids of all live processes of a session, its leader included."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(*GOING):
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
    return members


def processor_time_s(pids: Iterable[int]) -> float:
    """Of all these processes together, user and system; one that is gone counts nothing."""
    total_s = 0.0
    for pid in pids:
        with contextlib.suppress(*GOING):
            times = psutil.Process(pid).cpu_times()
            total_s += times.user + times.system
    return total_s


def memory_mib(pids: Iterable[int]) -> float:
    """Resident memory of all these processes together; one that is gone counts nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(*GOING):
            total += psutil.Process(pid).memory_info().rss
    return total / (1 << 20)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each process that is still there."""
    for pid in pids:
        with contextlib.suppress(*GOING):
            os.kill(pid, number)


def end_session(leader: int, timeout_s: float) -> None:
    """SIGTERM to the leader, time to end by itself, then SIGKILL to whatever is left of its session.

    The caller knows that the leader is alive and is ours.
    """
    send([leader], signal.SIGTERM)
    wait_until(lambda: not exists(leader), timeout_s)
    # workers end by themselves when the connection to the server closes
    wait_until(lambda: not session_members(leader), 2.0 if not exists(leader) else 0.0)
    send(session_members(leader), signal.SIGKILL)
    wait_until(lambda: not session_members(leader), 10.0)


def end_orphans(session: int, tmp_dir: str) -> None:
    """SIGKILL to what is left of the session of a server that is gone.

    Meanwhile (after a reboot) the number may belong to somebody else: then only processes with our TMPDIR count, and
    none if a process of that number is there, because the number is not given away while the session lives.
    """
    if not exists(session):
        left = [pid for pid in session_members(session) if _variable(pid, "TMPDIR") == tmp_dir]
        send(left, signal.SIGKILL)
        wait_until(lambda: not any(map(exists, left)), 10.0)


def _variable(pid: int, name: str) -> str | None:
    with contextlib.suppress(*GOING):
        value: str | None = psutil.Process(pid).environ().get(name)
        return value
    return None


def holder(port: int) -> str:
    """Who listens on a TCP port and how to end it, in words."""
    with contextlib.suppress(*GOING):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                arguments = psutil.Process(connection.pid).cmdline()
                if "org.pytorch.serve.ModelServer" in arguments and "-f" in arguments:
                    run_dir = os.path.dirname(arguments[arguments.index("-f") + 1])
                    return f"a model server; end it with: {command('deploy.server', 'stop', '--run-dir', run_dir)}"
                return f"process {connection.pid} ({' '.join(arguments)[:80]}); end it"
    return "a process that cannot be seen from here; end it"


def port_taken(host: str, port: int, option: str) -> UsageError:
    """The error for a port that somebody else listens on."""
    return UsageError(
        f"port {port} on {host} is taken by {holder(port)}, or choose another port with {option}"
    )


def require_free(host: str, port: int, option: str) -> None:
    """Raises UsageError if the server could not listen on host:port, with the reason and who is in the way."""
    with socket.socket() as probe:
        # as the server does: a connection that was closed a moment ago is not in the way
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_taken(host, port, option) from None
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
