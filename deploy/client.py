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
from deploy.exchange import Body, form, message, stranger
from deploy.retry import Budget, Retry, again, retry_after_s
from deploy.tls import Untrusted, no_connection, trusted
from segserve.errors import CheckFailed, ServerError, UsageError
from segserve.request import CONTENT_TYPES

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 300.0
"""The largest photos on a slow CPU, behind a full queue."""
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
        if token is not None and not (token.isascii() and token.isprintable()):
            raise UsageError("the token has characters that no token has; expected one of RUN/key_file.json")
        self._url, self._path = url, f"/predictions/{model}"
        self._retry = retry or Retry()
        self._budget = Budget(self._retry)
        self._clock, self._sleep, self._rand = clock, sleep, rand
        host = host_of(url)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
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
        """Close all connections."""
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
        """Body of the answer in one of `segserve.request.CONTENT_TYPES`, after timeout_s at the latest.

        classes: only these, by name. once: nothing is sent again, for callers that have somebody else to ask.

        Raises: Refused for any status but 200 that is final, or was the last one in time; ServerError if there is no
        server, it went away, did not answer in time, or is another one; UsageError for a format that does not exist.
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
                    if error_of_200 := stranger(self._url, answer, answer_format):
                        raise error_of_200
                    return answer.content
                error, final = Refused(answer.status_code, message(answer)), not again(answer)
                asked_s, unreachable_since = retry_after_s(answer), None
            else:
                error, asked_s, lost = answer, 0.0, isinstance(answer, _Lost)
                answer_s *= 1 + lost
                unreachable_since = self._clock() if lost or unreachable_since is None else unreachable_since
                final = not lost and self._clock() - unreachable_since >= self._retry.unreachable_s
            if final or once or isinstance(error, Untrusted):
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
        headers = {"Accept": CONTENT_TYPES[answer_format], **body.headers}
        try:
            async with asyncio.timeout(max(0.0, limit_s)):
                return await self._http.post(
                    self._path, content=body.content, data=body.fields, files=body.files, headers=headers
                )
        except TimeoutError:
            return _Lost(f"{self._url} did not answer within {limit_s:.3g} s")
        except httpx.ConnectError as error:
            return no_connection(self._url, error)
        except httpx.RequestError as error:  # a body that can't be unpacked, too
            return ServerError(f"{self._url} did not answer: {type(error).__name__} {error}")


class _Thread:
    """A client on an event loop of its own in a thread. Of use only in the process that made it."""

    def __init__(self, client: AsyncClient) -> None:
        self.pid = os.getpid()
        self.client = client
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="client", daemon=True)
        runs = threading.Event()
        self.loop.call_soon(runs.set)
        self._thread.start()
        runs.wait()  # in a child, a copy of a loop that does not run yet would be closed, and the original with it

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.client.aclose(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


_OF_PARENTS: list[_Thread] = []
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
        self._thread = _Thread(self._make())

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

    def _of_this_process(self) -> _Thread:
        """A fork does not bring the thread along, and the connections are the parent's: then both are made anew."""
        if self._closed:
            raise UsageError("this client is closed; make another one")
        if self._thread.pid != os.getpid():
            with self._lock:
                if self._thread.pid != os.getpid():
                    _OF_PARENTS.append(self._thread)
                    self._thread = _Thread(self._make())
        return self._thread
