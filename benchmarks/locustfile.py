"""A user for Locust who looks at what came back: any answer that is not the right mask counts as a failure.

At the start, while nothing else runs, each photo is sent once; these masks are what every later answer of the
same version must equal, in all four formats. `make load` runs it without a page, or by hand:

    python -m locust -f benchmarks/locustfile.py --headless --host http://127.0.0.1:8080 -u 4 -t 20s

Exit code: 0; 1 if an answer was missing or wrong, or if there was none at all; 2 for wrong usage.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from locust import FastHttpUser, events, task
from locust.env import Environment

from benchmarks.judge import Answer, Masks
from benchmarks.photos import Photo, mixed_photos
from deploy.retry import Retry
from deploy.run_folder import read_token
from segserve.errors import CheckFailed, UsageError
from segserve.labels import ROOM_CLASSES
from segserve.request import CONTENT_TYPES

PHOTO_SEED = 100
FORMATS = {"png": 6, "json": 2, "npy": 1, "overlay": 1}
"""Answer formats and how often each is asked for, in tenths."""
TIMEOUT_S = 120.0
VERSION_HEADER = "x-segserve-version"


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    """What Locust cannot know."""
    parser.add_argument("--model", default="rooms", help="name of the model at the server")
    parser.add_argument(
        "--answers", default="", help="file for a line of JSON on each answer: when, what, who"
    )
    parser.add_argument("--num-classes", type=int, default=len(ROOM_CLASSES), help="classes of that model")


class RoomsUser(FastHttpUser):
    """Sends photos of mixed sizes, one after another, and judges each answer."""

    network_timeout = connection_timeout = TIMEOUT_S
    photos: tuple[Photo, ...] = ()
    masks: Masks
    path: str
    headers: dict[str, str]
    answers: TextIO | None = None
    patient = False

    @task
    def segment(self) -> None:
        """One photo, one format, both drawn by chance."""
        answer_format = random.choices(list(FORMATS), list(FORMATS.values()))[0]
        self.send(random.choice(self.photos), answer_format)

    def send(self, photo: Photo, answer_format: str) -> str | None:
        """Returns what was wrong with the answer, or None."""
        headers = {"Accept": CONTENT_TYPES[answer_format], "Content-Type": "image/jpeg"}

        def judge(response: Any) -> str | None:
            return self._wrong(photo, answer_format, response)

        return self.exchange(photo.name, answer_format, photo.jpeg, headers, judge)

    def exchange(
        self,
        what: str,
        name: str,
        body: bytes,
        headers: Mapping[str, str],
        judge: Callable[[Any], str | None],
    ) -> str | None:
        """Post, judge the answer, write it down. `patient` users who get 503 ask again later, as deploy.client does."""
        while True:
            sent = time.time()
            with self.client.post(
                self.path,
                data=body,  # type: ignore[arg-type]  # annotated str; bytes are sent as they are
                headers={**self.headers, **headers},
                name=f"{self.path} {name}",
                catch_response=True,
            ) as response:
                busy = self.patient and response.status_code == 503
                wrong = None if busy else judge(response)
                if wrong:
                    response.failure(wrong)
                else:
                    response.success()
                self._write_down(what, sent, response, wrong)
            if not busy:
                return wrong
            time.sleep(Retry().wait_s(1, False, random.random()))

    def _write_down(self, what: str, sent: float, response: Any, wrong: str | None) -> None:
        if self.answers is not None:
            version = (response.headers or {}).get(VERSION_HEADER)
            times = {"sent": sent, "done": time.time()}
            row = {**times, "version": version, "status": response.status_code, "photo": what, "wrong": wrong}
            self.answers.write(json.dumps(row) + "\n")

    def _wrong(self, photo: Photo, answer_format: str, response: Any) -> str | None:
        if response.status_code != 200:
            return f"status {response.status_code}: {(response.text or str(response.error))[:200]}"
        version = response.headers.get(VERSION_HEADER)
        if not version:
            return f"no header {VERSION_HEADER}"
        content_type = response.headers.get("content-type", "")
        answer = Answer(answer_format, version, content_type, response.content or b"")
        try:
            self.masks.check(photo.name, (photo.height, photo.width), answer)
        except CheckFailed as error:
            return str(error)
        return None


@events.init.add_listener  # type: ignore[untyped-decorator]
def learn(environment: Environment, **_: Any) -> None:
    """Before any load: render the photos and get the mask of each; without them the test makes no sense."""
    options: Any = environment.parsed_options
    RoomsUser.masks = Masks(options.num_classes)
    RoomsUser.path = f"/predictions/{options.model}"
    RoomsUser.host = environment.host or options.host
    try:
        RoomsUser.headers = _authorisation()
        user = RoomsUser(environment)
        for photo in mixed_photos(PHOTO_SEED):
            RoomsUser.photos += (photo,)
            if wrong := user.send(photo, "png"):
                raise CheckFailed(f"{RoomsUser.host} gave no mask of a quiet photo {photo.name}: {wrong}")
        RoomsUser.masks.require_content()
    except (CheckFailed, UsageError) as error:
        print(
            f"error: {error}\n`make serve` starts a server; AUTH=token, if any, goes to both.",
            file=sys.stderr,
        )
        sys.exit(error.exit_code)
    environment.stats.reset_all()  # the quiet requests are no part of the load
    if options.answers:
        RoomsUser.answers = Path(options.answers).open("w", buffering=1)  # noqa: SIM115 (as long as it runs)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def require_requests(environment: Environment, **_: Any) -> None:
    """A load test without a request has shown nothing."""
    if environment.stats.total.num_requests == 0:
        print("error: no request was answered", file=sys.stderr)
        environment.process_exit_code = 1


def _authorisation() -> dict[str, str]:
    key_file = os.environ.get("TOKEN_FILE")
    return {"Authorization": f"Bearer {read_token(Path(key_file), 'inference')}"} if key_file else {}
