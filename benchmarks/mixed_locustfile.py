"""Photos, and among them files that deserve an error: each must get the status that is promised, and no other.

    python -m locust -f benchmarks/mixed_locustfile.py --headless --host http://127.0.0.1:8080 -u 16 -t 60s

Everything else is as in locustfile.py: masks are judged, options are the same. `benchmarks.endurance` drives it.
"""

from __future__ import annotations

import json
import random
import time

from locust import task

from benchmarks import locustfile
from benchmarks.bad_files import BadRequest, bad_requests

BAD_SHARE = 0.05


class MixedUser(locustfile.RoomsUser):
    """One request after another, one in twenty of them bad."""

    bad: tuple[BadRequest, ...] = ()

    @task
    def segment(self) -> None:
        """A photo, or something that is none."""
        if random.random() >= BAD_SHARE:
            super().segment()
            return
        if not MixedUser.bad:
            MixedUser.bad = bad_requests(self.photos[0].jpeg)
        self.send_bad(random.choice(MixedUser.bad))

    def send_bad(self, bad: BadRequest) -> None:
        """Only the promised status is right."""
        headers = {**self.headers, "Content-Type": "application/octet-stream", **bad.headers}
        sent = time.time()
        with self.client.post(
            self.path,
            data=bad.body,  # type: ignore[arg-type]  # annotated str; bytes are sent as they are
            headers=headers,
            name=f"{self.path} bad: {bad.name}",
            catch_response=True,
        ) as response:
            right = response.status_code == bad.status
            wrong = None if right else f"{bad.name}: status {response.status_code}, expected {bad.status}"
            if wrong:
                response.failure(wrong)
            else:
                response.success()
        if self.answers is not None:
            answer = {"sent": sent, "done": time.time(), "version": None, "status": response.status_code}
            self.answers.write(json.dumps({**answer, "photo": bad.name, "wrong": wrong}) + "\n")
