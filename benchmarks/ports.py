"""Ports for servers and load generators that measurements and tests start.

inference, metrics = free_ports(2)
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path

LOWEST = 10_000
SHARE = "SEGSERVE_PORTS"
"""Variable of the environment, "0/2" or "1/2": of all ports those whose number leaves the first when divided by the
second. For processes that start servers at the same time, as a port is free until its server has it."""
OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listened on a moment ago.

    None of those from which the system gives one to each outgoing connection, where it is known: one of the clients
    that are at work at the same time could have it before the server does.
    """
    try:
        first = int(OUTGOING.read_text().split()[0])
    except OSError:
        first = 0
    mine, of = (int(number) for number in os.environ.get(SHARE, "0/1").split("/"))
    chance, found = random.SystemRandom(), list[int]()
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                drawn = chance.randrange(LOWEST - LOWEST % of + mine, first, of) if first > 2 * LOWEST else 0
                probe.bind(("127.0.0.1", drawn))
                found.append(int(probe.getsockname()[1]))
    return found


def load_processes(count: int) -> list[str]:
    """Options of Locust for so many load processes, whose master has a port of its own.

    On Locust's usual one the workers of a second load at the same time join the master of the first.
    """
    port = str(free_ports(1)[0])
    own = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    return ["--processes", str(count), *own]
