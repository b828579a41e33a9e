"""The inference API as a Python call: image bytes in, an answer in one of the formats out, errors in words.

    with Client("http://127.0.0.1:8080", "rooms") as client:
        mask_png = client.segment(Path("photo.jpg").read_bytes(), "png", timeout_s=30)

What is tried again, and when, is in deploy.retry. `Client` is `AsyncClient` on an event loop of its own in a thread: a
deadline that holds for a whole call, however slowly bytes trickle in, needs something that can interrupt reading.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

import httpx

from deploy.addresses import host_of, is_loopback
from deploy.exchange import Body, Foreign, authorization, form, message, path_of, stranger
from deploy.loop_thread import LoopThread
from deploy.retry import Budget, Retry, again, retry_after_s
from deploy.tls import Untrusted, no_connection, trusted
from segserve.errors import CheckFailed, ServerError, UsageError
from segserve.request import CONTENT_TYPES

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 300.0
"""The largest photos on a slow CPU, behind a full queue."""
CLOSED = "this client is closed; make another one"
CONNECTIONS = 256
"""Of one client; more calls at a time wait for one."""


class Refused(CheckFailed):
    """The server answered, but not with what was asked for. `http_status` says why, the message is the server's."""

    def __init__(self, http_status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status


class _Lost(ServerError):
    """No answer in the time that one attempt has."""


class AsyncClient:
    """One connection pool, one retry budget. Belongs to one event loop; use it in an `async with`, or `aclose` it.

    url: http://HOST:PORT of the inference API. model: "rooms" for the default version, or "rooms/2.0".
    token: where the server wants one, the inference token of its key_file.json. retry: see deploy.retry.
    ca_file: PEM certificates that the server's must be signed by (or be one of), in the place of the public CAs.
    transport, clock, sleep and rand are for tests.
    """

    def __init__(
        self,
        url: str,
        model: str,
        token: str | None = None,
        retry: Retry | None = None,
        *,
        ca_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._url, self._path = url, path_of(model)
        self._retry = retry or Retry()
        self._budget = Budget(self._retry)
        self._clock, self._sleep, self._rand = clock, sleep, rand
        host = host_of(url)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=authorization(token),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # the deadline is that of the call
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            # HTTP_PROXY is for the way out: a proxy could not reach this machine's own loopback
            trust_env=not is_loopback(host),
            verify=trusted(ca_file),
            transport=transport,
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. Once more does nothing."""
        await self._http.aclose()

    async def segment(
        self,
        image: bytes | bytearray | memoryview,
        answer_format: str,
        *,
        classes: Sequence[str] = (),
        timeout_s: float = ANSWER_TIMEOUT_S,
        once: bool = False,
    ) -> bytes:
        """Body of the answer, after timeout_s (5 minutes if left out) at the latest, however often it was tried.

        answer_format: "png", "json", "npy" or "overlay". classes: only these, by name; all if left out. once: nothing
        is sent again, for callers that have somebody else to ask.

        Raises:
            Refused: the server answered with a status other than 200, its `http_status`, that is final or was the last
                one in time. The message is the server's.
            ServerError: no server, it went away, did not answer in time, its certificate does not pass, or what
                answered is another server.
            UsageError: no such format, `classes` is a text and no list of them, or this client is closed.
        """
        if answer_format not in CONTENT_TYPES:
            raise UsageError(
                f"no answer format {answer_format!r}; expected one of {', '.join(CONTENT_TYPES)}"
            )
        body = form(bytes(image), classes)
        deadline = self._clock() + timeout_s
        self._budget.earn()
        error: Refused | ServerError
        retries, full, answer_s = 0, 0, self._retry.answer_s
        unreachable_since: float | None = None
        while True:
            answer = await self._attempt(body, answer_format, min(deadline - self._clock(), answer_s))
            if isinstance(answer, httpx.Response):
                if answer.status_code == 200:
                    return answer.content
                error, final = Refused(answer.status_code, message(answer)), not again(answer)
                asked_s, unreachable_since = retry_after_s(answer), None
            else:
                error, asked_s, lost = answer, 0.0, isinstance(answer, _Lost)
                answer_s *= 1 + lost
                unreachable_since = self._clock() if lost or unreachable_since is None else unreachable_since
                final = not lost and self._clock() - unreachable_since >= self._retry.unreachable_s
            if final or once or isinstance(error, Untrusted | Foreign):
                raise error
            retries += 1
            if self._budget.take():
                wait_s = asked_s + self._retry.short_wait_s(retries, self._rand())
            else:
                full += isinstance(error, Refused)
                wait_s = asked_s + self._retry.long_wait_s(full, self._rand())
            if self._clock() + wait_s >= deadline:
                raise error
            await self._sleep(wait_s)

    async def _attempt(self, body: Body, answer_format: str, limit_s: float) -> httpx.Response | ServerError:
        """An answer, or why there was none."""
        if self._http.is_closed:
            raise UsageError(CLOSED)
        headers, limit_s = {"Accept": CONTENT_TYPES[answer_format], **body.headers}, max(0.0, limit_s)
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._http.post(
                    self._path, content=body.content, data=body.fields, files=body.files, headers=headers
                )
        except TimeoutError:
            return _Lost(f"{self._url} did not answer within {limit_s:.3g} s")
        except httpx.ConnectError as error:
            return no_connection(self._url, error)
        except httpx.DecodingError as error:
            return Foreign(f"the answer of {self._url} can't be unpacked: {error}; does a proxy change it?")
        except httpx.RequestError as error:
            return ServerError(f"{self._url} did not answer: {type(error).__name__} {error}")
        return stranger(self._url, answer, answer_format) or answer


_OF_PARENTS: list[LoopThread] = []
"""Kept for good: clearing one up would take the parent's connections out of the epoll that it shares with its child."""


class Client:
    """The same for threads, any number of them, and after a fork. Close it, or use it in a `with`."""

    def __init__(
        self,
        url: str,
        model: str,
        token: str | None = None,
        retry: Retry | None = None,
        *,
        ca_file: Path | None = None,
    ) -> None:
        self._make = partial(AsyncClient, url, model, token, retry, ca_file=ca_file)
        self._lock, self._closed = threading.Lock(), False
        self._thread = LoopThread(self._make())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: object, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread. Calls in flight must have ended. Once more does nothing."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed and self._thread.pid == os.getpid():  # a parent's are the parent's to close
            self._thread.close()

    def segment(
        self,
        image: bytes | bytearray | memoryview,
        answer_format: str,
        *,
        classes: Sequence[str] = (),
        timeout_s: float = ANSWER_TIMEOUT_S,
        once: bool = False,
    ) -> bytes:
        """As `AsyncClient.segment`, with the same errors."""
        thread = self._of_this_process()
        call = thread.client.segment(image, answer_format, classes=classes, timeout_s=timeout_s, once=once)
        future = asyncio.run_coroutine_threadsafe(call, thread.loop)
        try:
            return future.result()
        finally:
            future.cancel()  # on Ctrl-C nobody waits for it any more

    def _of_this_process(self) -> LoopThread:
        """A fork does not bring the thread along, and the connections are the parent's: then both are made anew."""
        if self._closed:
            raise UsageError(CLOSED)
        if self._thread.pid != os.getpid():
            with self._lock:
                if self._thread.pid != os.getpid():
                    _OF_PARENTS.append(self._thread)
                    self._thread = LoopThread(self._make())
        return self._thread
