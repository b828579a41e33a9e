"""An answer that could not be written down fails the load test; in a process of its own, as Locust patches it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FULL_DISK = """
from locust.env import Environment

from benchmarks import load_end
from benchmarks.load_record import Record
from benchmarks.load_users import RoomsUser


class User(RoomsUser):
    def one(self, due):
        raise OSError(28, "No space left on device")


User.record, User.host = Record(None, keep_rows=False), "http://127.0.0.1:1"
environment = Environment(user_classes=[User])
User(environment).begin(1.0).join()
RoomsUser.on_their_way.join()
print(environment.process_exit_code, *load_end.verdict(9, User.record, ()), sep="; ")
"""


def test_a_worker_on_a_full_disk_fails_the_test_and_its_log_says_so(repo_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK], cwd=repo_root, capture_output=True, text=True, timeout=200
    )
    assert done.stdout == (
        "1; 1 answers were not written down: OSError: [Errno 28] No space left on device\n"
    ), done.stderr
