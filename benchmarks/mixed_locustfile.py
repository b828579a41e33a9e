"""Photos, and among them files that deserve an error: each must get the status that is promised, and no other.

    python -m locust -f benchmarks/mixed_locustfile.py --headless --host http://127.0.0.1:8080 -u 16 -t 60s

Everything else is as in locustfile.py: masks are judged, options are the same. `benchmarks.endurance` drives it.
"""

from __future__ import annotations

import random
from typing import Any

from benchmarks import load_users, locustfile
from benchmarks.bad_files import BadRequest, bad_requests

__all__ = ["MixedUser", "locustfile"]  # the latter for its options and events

BAD_SHARE = 0.05


class MixedUser(load_users.RoomsUser):
    """One request after another, one in twenty of them bad. Who is told that the server is full comes again later."""

    patient = True
    bad: tuple[BadRequest, ...] = ()

    def one(self, due: float) -> None:
        """A photo, or something that is none."""
        if random.random() >= BAD_SHARE:
            super().one(due)
            return
        if not MixedUser.bad:
            MixedUser.bad = bad_requests(self.photos[0].jpeg)
        self.send_bad(random.choice(MixedUser.bad))

    def send_bad(self, bad: BadRequest) -> None:
        """Only the promised status is right."""
        headers = {"Content-Type": "application/octet-stream", **bad.headers}

        def judge(response: Any) -> str | None:
            right = response.status_code == bad.status
            return None if right else f"{bad.name}: status {response.status_code}, expected {bad.status}"

        self.exchange(bad.name, "error", bad.body, headers, judge, name=f"bad: {bad.name}")
