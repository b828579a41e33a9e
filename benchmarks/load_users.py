"""Locust's users for segserve: closed load, open load; each answer is judged, timed from when it was due, written down.

benchmarks/locustfile.py fills in what they send and where to; see there for the options.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from gevent.pool import Group
from locust import FastHttpUser, task
from locust.exception import CatchResponseError, StopUser

from benchmarks.answers import (
    BATCH_SIZE_HEADER,
    DEVICE_HEADER,
    ENGINE_HEADER,
    TIMING_HEADER,
    VERSION_HEADER,
    Answered,
    no_room,
    server_ms,
)  # fmt: skip
from benchmarks.judge import Answer, words_of
from benchmarks.known_masks import Masks
from benchmarks.load_photos import body_of
from benchmarks.load_record import Record
from benchmarks.photos import Photo
from deploy.retry import Retry
from segserve.errors import CheckFailed
from segserve.request import CONTENT_TYPES, REQUEST_START_HEADER

TIMEOUT_S = 120.0
LOOPBACK = ("127.", "localhost", "[::1]")

Judge = Callable[[Any], str | None]


class RoomsUser(FastHttpUser):
    """Closed load: the next photo is sent when the last one was answered, after `--think-s` seconds."""

    network_timeout = connection_timeout = TIMEOUT_S
    photos: tuple[Photo, ...] = ()
    formats: Mapping[str, float] = {}
    multipart_share = 0.0
    think_s = 0.0
    masks: Masks
    path: str
    headers: dict[str, str]
    record: Record | None = None
    patient = False
    ending = False
    """The load is over: answers are waited for, nothing new is sent."""
    on_their_way = Group()
    """Requests, each in a greenlet of its own: they are answered and counted even if their user was taken away."""

    def wait_time(self) -> float:
        """Until the next request, seconds."""
        return self.think_s

    @task  # the only one: Locust would do a task of a subclass beside it, not instead of it
    def segment(self) -> None:
        """What a user does again and again."""
        self.turn()

    def turn(self) -> None:
        """One request, and wait for its answer."""
        self.begin(time.time()).join()

    def begin(self, due: float) -> gevent.Greenlet:
        """Send a request that is due at that time. Raises: StopUser when the load is over."""
        if RoomsUser.ending:
            raise StopUser
        request = RoomsUser.on_their_way.spawn(self.one, due)
        request.link_exception(self._fail)  # such as a full disk: what was not written down must not pass
        return request

    def _fail(self, request: gevent.Greenlet) -> None:
        self.environment.process_exit_code = 1  # which the master of a worker never sees: it reads the record
        if self.record is not None and request.exception is not None:
            self.record.missed(request.exception)

    def one(self, due: float) -> None:
        """One photo, one format, both drawn by chance."""
        answer_format = random.choices(list(self.formats), list(self.formats.values()))[0]
        kind = "multipart" if random.random() < self.multipart_share else "raw"
        self.send(random.choice(self.photos), answer_format, kind, due)

    def send(
        self, photo: Photo, answer_format: str, kind: str = "raw", due: float | None = None
    ) -> str | None:
        """Returns what was wrong with the answer, or None."""
        body, content_type = body_of(photo, kind)
        headers = {"Accept": CONTENT_TYPES[answer_format], "Content-Type": content_type}

        def judge(response: Any) -> str | None:
            return self._wrong(photo, answer_format, response)

        return self.exchange(photo.name, answer_format, body, headers, judge, kind, due)

    def exchange(
        self, what: str, answer_format: str, body: bytes, headers: Mapping[str, str], judge: Judge,
        kind: str = "raw", due: float | None = None, name: str = "",
    ) -> str | None:  # fmt: skip
        """Post, judge the answer, write it down. `patient` users who get 503 ask again later, as deploy.client does.

        It is wrong all the same if it does not say that the server is full: deploy.client would hide a broken handler.
        due: seconds since 1970; without it, now. name: of the row in Locust's table; without it, format, version and
        device.
        """
        due = time.time() if due is None else due
        full = 0
        while True:
            row = self._ask(body, headers, judge, (what, answer_format, kind), due, name)
            if self.record is not None:
                self.record.add(row)
            if row.status != 503 or not self.patient or RoomsUser.ending:
                return row.wrong
            full += 1
            gevent.sleep(Retry().long_wait_s(full, random.random()))

    def _ask(
        self, body: bytes, headers: Mapping[str, str], judge: Judge, asked: tuple[str, str, str], due: float, name: str
    ) -> Answered:  # fmt: skip
        def judged(response: Any) -> str | None:
            if self.patient and response.status_code == 503 and no_room(503, response.text or ""):
                return None
            return judge(response)

        sent = max(due, time.time())
        start = {REQUEST_START_HEADER: f"t={sent:.3f}"} if self.here() else {}
        try:
            posted = self.client.post(
                self.path,
                data=body,  # type: ignore[arg-type]  # annotated str; bytes are sent as they are
                headers={**self.headers, **headers, **start},
                catch_response=True,
            )
        except Exception as error:  # such as an answer in an encoding that Locust cannot unpack
            return self._unread(error, (due, sent, max(sent, time.time())), asked, name)
        with posted as response:
            done = max(sent, time.time())
            wrong = words_of(judged, response)
            row = _answered(response, (due, sent, done), wrong, asked)
            response.request_meta.update(name=name or _name(row), response_time=row.latency_ms)
            if wrong:
                response.failure(wrong)
            else:
                response.success()
        return row

    def _unread(
        self, error: Exception, times: tuple[float, float, float], asked: tuple[str, str, str], name: str
    ) -> Answered:
        """A failed request for Locust, which has told nobody of it, and for us."""
        wrong = f"could not be read: {type(error).__name__}: {error}"[:200]
        row = Answered(
            *times, 0, wrong, *asked, version=None, device=None, engine=None, batch_size=None, server_ms={}, bytes=0
        )  # fmt: skip
        self.environment.events.request.fire(
            request_type="POST", name=name or _name(row), response_time=row.latency_ms, response_length=0,
            exception=CatchResponseError(wrong), context={},
        )  # fmt: skip
        return row

    def here(self) -> bool:
        """Whether the server is on this machine: only then do both clocks agree, so that it can tell who waited."""
        return str(self.host).partition("://")[2].startswith(LOOPBACK)

    def _wrong(self, photo: Photo, answer_format: str, response: Any) -> str | None:
        if response.status_code != 200:
            return f"status {response.status_code}: {(response.text or str(response.error))[:200]}"
        version = response.headers.get(VERSION_HEADER)
        if not version:
            return f"no header {VERSION_HEADER}"
        content_type, engine = (
            response.headers.get("content-type", ""),
            response.headers.get(ENGINE_HEADER, ""),
        )
        answer = Answer(answer_format, version, content_type, response.content or b"", engine)
        try:
            self.masks.check(photo, answer, self.formats)
        except CheckFailed as error:
            return str(error)
        return None


class OpenUser(RoomsUser):
    """Open load: requests are sent when they are due, whether or not earlier ones were answered.

    All OpenUsers together send `--rate` requests a second; without it each sends one, which is what load shapes count.
    """

    concurrency = 10_000  # connections; Locust's own limit of 10 would make requests wait for each other
    rate_per_s = 1.0
    """Of one user."""
    poisson = True

    def on_start(self) -> None:
        """The first request comes after a gap, too: otherwise all users begin at once."""
        self.due = time.time() + (self.gap_s() if self.poisson else random.random() / self.rate_per_s)

    def wait_time(self) -> float:
        """Until the next request is due, seconds; 0 if that has passed."""
        return max(0.0, self.due - time.time())

    def gap_s(self) -> float:
        """From one request to the next: exponential (Poisson arrivals, as of many people) or always the same."""
        return random.expovariate(self.rate_per_s) if self.poisson else 1 / self.rate_per_s

    def turn(self) -> None:
        """All requests that are due, late ones with the time at which they should have been sent."""
        while self.due <= time.time():
            self.begin(self.due)
            self.due += self.gap_s()


def _answered(
    response: Any, times: tuple[float, float, float], wrong: str | None, asked: tuple[str, str, str]
) -> Answered:
    headers = response.headers or {}
    batch_size = headers.get(BATCH_SIZE_HEADER) or ""
    return Answered(
        *times, response.status_code or 0, wrong, *asked,
        version=headers.get(VERSION_HEADER), device=headers.get(DEVICE_HEADER), engine=headers.get(ENGINE_HEADER),
        batch_size=int(batch_size) if batch_size.isdecimal() else None,
        server_ms=server_ms(headers.get(TIMING_HEADER)), bytes=response.request_meta["response_length"],
    )  # fmt: skip


def _name(row: Answered) -> str:
    """The row of Locust's table; an answer without a version is one that no model gave."""
    return f"{row.format} v{row.version} {row.device}" if row.version else f"{row.format} (no model answered)"
