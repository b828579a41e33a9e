"""Who is alive, who belongs to a server, who holds a port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import processes
from segserve.errors import UsageError


def test_a_name_with_brackets_and_spaces_does_not_shift_the_fields() -> None:
    rename = "open('/proc/self/comm', 'w').write(') Z 1 (x'); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        boot, _, start_ticks = processes.identity(process.pid).partition(" ")
        assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        own_ticks = int(processes.identity(os.getpid()).split()[1])
        assert int(start_ticks) >= own_ticks
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert processes.identity(process.pid) == ""  # a zombie has ended
    assert processes.identity(process.pid) == ""


def test_memory_is_that_of_the_processes_that_are_there() -> None:
    alone = processes.memory_mib([os.getpid()])
    assert alone > 10
    with subprocess.Popen(["true"]) as process:
        process.wait()
        assert processes.memory_mib([os.getpid(), process.pid]) == pytest.approx(alone, rel=0.2)
    assert processes.memory_mib([]) == 0


def test_a_taken_port_names_its_holder_and_the_way_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"port {port} on 127\.0\.0\.1 is taken by process {os.getpid()} .*--port"
        ):
            processes.require_free("127.0.0.1", port, "--port")
    processes.require_free("127.0.0.1", port, "--port")


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1:8080"):
        processes.require_free("192.0.2.1", 8080, "--port")


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(300)"
)
LEADER = (
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE);"
    "p.stdout.readline(); print('up', flush=True); p.wait()"
)


@contextlib.contextmanager
def session(tmp_dir: str) -> Iterator[subprocess.Popen[bytes]]:
    """A leader of a session with a child that does not mind SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-c", LEADER, STUBBORN],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": tmp_dir},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert len(processes.session_members(process.pid)) == 2
            yield process
        finally:
            processes.send(processes.session_members(process.pid), signal.SIGKILL)


def test_ending_a_session_reaches_what_outlives_its_leader() -> None:
    with session("/tmp/ours") as leader:
        processes.end_session(leader.pid, timeout_s=10)
        assert processes.session_members(leader.pid) == []
    assert leader.returncode == -signal.SIGTERM


def test_orphans_are_known_by_their_tmpdir_and_others_are_left_alone() -> None:
    with session("/tmp/ours") as leader:
        processes.end_orphans(leader.pid, "/tmp/ours")
        assert len(processes.session_members(leader.pid)) == 2  # its leader lives: that is no orphan
        leader.kill()
        leader.wait(10)
        [orphan] = processes.session_members(leader.pid)
        processes.end_orphans(leader.pid, "/tmp/not-ours")
        assert processes.session_members(leader.pid) == [orphan]
        processes.end_orphans(leader.pid, "/tmp/ours")
        assert processes.session_members(leader.pid) == []
