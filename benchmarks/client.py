"""The client of every speed measurement: closed loop, HTTP/1.1 keep-alive, as little work of its own as possible.

Client and server share the machine that is measured, so requests are bytes that were made before, and answers are
only cut out of the stream. A number of clients each send the next request as soon as their last one was answered.

    requests = [post(url, photo.jpeg, {"Accept": "image/png"}) for photo in photos]
    load = drive(url, requests, concurrency=8, duration_s=10.0, keep_bodies=1)
    load.images_per_s, load.latency_ms(50), load.latency_ms(95)
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

STREAM_LIMIT_BYTES = 1 << 20
"""Read ahead of the parser; larger bodies are collected piece by piece."""
NO_ANSWER = 0
"""Status of a request whose connection broke, or that took longer than allowed."""


@dataclass(frozen=True)
class Answer:
    """One request and what came back. Times are seconds; `sent_s` counts from the start of the load."""

    request: int
    status: int
    sent_s: float
    latency_s: float
    headers: Mapping[str, str]
    num_bytes: int
    body: bytes | None
    error: str = ""

    @property
    def done_s(self) -> float:
        """When it was complete, from the start of the load."""
        return self.sent_s + self.latency_s


@dataclass(frozen=True)
class Load:
    """What one run of clients got, in the order in which answers were complete."""

    concurrency: int
    window_s: float
    answers: tuple[Answer, ...]

    @property
    def good(self) -> list[Answer]:
        """Answers with status 200 that were complete inside the window."""
        return [answer for answer in self.answers if answer.status == 200 and answer.done_s <= self.window_s]

    @property
    def failed(self) -> list[Answer]:
        """Answers with any other status, late ones too."""
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def images_per_s(self) -> float:
        """Good answers over the time until the last of them: a batch cut by the window's end counts on no side."""
        good = self.good
        return len(good) / max(answer.done_s for answer in good) if good else 0.0

    def latency_ms(self, percent: float) -> float:
        """Nearest-rank percentile over the good answers; NaN if there is none."""
        return 1000 * percentile([answer.latency_s for answer in self.good], percent)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank; NaN if there are none."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1] if ordered else math.nan


def post(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A whole POST request as bytes. `url` is http://HOST:PORT/PATH?QUERY."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def drive(
    url: str,
    requests: Sequence[bytes],
    concurrency: int,
    duration_s: float,
    *,
    min_answers: int = 0,
    keep_bodies: int = 0,
    answer_timeout_s: float = 300.0,
    drain: bool = True,
) -> Load:
    """Send `requests` round and round from `concurrency` connections.

    Args:
        url: of the server; host and port are taken from it.
        requests: what `post` made; each is sent as often as the others, in this order.
        concurrency: how many requests are on their way at any time.
        duration_s: after this no new request is sent, and later answers count only where `min_answers` is short.
        min_answers: the window stays open until so many were answered: on slow servers a few seconds show nothing.
        keep_bodies: how many bodies to keep of each request, from its first good answer on.
        answer_timeout_s: a request that takes longer has failed, and so has one whose connection broke.
        drain: wait for the answers that are still on their way when the window closes; otherwise hang up on them.

    Returns: the load. Failures are counted there, not raised. Raises: OSError if nobody listens.
    """
    parts = urlsplit(url)
    clients = _Clients(requests, duration_s, min_answers, keep_bodies, answer_timeout_s)
    return asyncio.run(clients.run(parts.hostname or "127.0.0.1", parts.port or 80, concurrency, drain))


class _Clients:
    def __init__(
        self,
        requests: Sequence[bytes],
        duration_s: float,
        min_answers: int,
        keep_bodies: int,
        answer_timeout_s: float,
    ) -> None:
        self._requests, self._duration_s, self._min_answers = requests, duration_s, min_answers
        self._keep_bodies, self._timeout_s = keep_bodies, answer_timeout_s
        self._answers: list[Answer] = []
        self._kept: Counter[int] = Counter()
        self._sent = 0
        self._window_s = duration_s
        self._start = 0.0

    async def run(self, host: str, port: int, concurrency: int, drain: bool) -> Load:
        self._enough = asyncio.Event()
        connections = [_Connection(host, port) for _ in range(concurrency)]
        try:
            await asyncio.gather(*(connection.open() for connection in connections))
            self._start = time.perf_counter()
            clients = [asyncio.create_task(self._client(connection)) for connection in connections]
            if not drain:
                await self._hang_up(clients)
            await asyncio.gather(*clients, return_exceptions=not drain)
        finally:
            for connection in connections:
                connection.close()
        return Load(concurrency, self._window_s, tuple(self._answers))

    async def _client(self, connection: _Connection) -> None:
        while self._open():
            request = self._sent % len(self._requests)
            self._sent += 1
            answer = await self._ask(connection, request)
            self._answers.append(answer)
            if len(self._answers) == self._min_answers:
                self._window_s = max(self._window_s, answer.done_s)
                self._enough.set()
            if answer.status == NO_ANSWER:
                try:
                    await connection.open()
                except OSError:  # the server is gone: the others will find out as well
                    return

    async def _hang_up(self, clients: Sequence[asyncio.Task[None]]) -> None:
        """Cancel them when the window has closed, or at once if all have given up."""
        window = asyncio.create_task(self._window())
        gone = asyncio.create_task(asyncio.wait(clients))
        await asyncio.wait([window, gone], return_when=asyncio.FIRST_COMPLETED)
        for task in (window, gone, *clients):
            task.cancel()

    async def _window(self) -> None:
        await asyncio.sleep(self._duration_s)
        if self._min_answers:
            await self._enough.wait()

    def _open(self) -> bool:
        now_s = time.perf_counter() - self._start
        return now_s < self._duration_s or len(self._answers) < self._min_answers

    async def _ask(self, connection: _Connection, request: int) -> Answer:
        sent_s = time.perf_counter() - self._start
        status, headers, body, error = NO_ANSWER, dict[str, str](), b"", ""
        try:
            async with asyncio.timeout(self._timeout_s):
                status, headers, body = await connection.exchange(self._requests[request])
        except TimeoutError:
            error = f"no answer within {self._timeout_s:.0f} s"
        except (OSError, EOFError, ValueError) as broken:
            error = f"{type(broken).__name__}: {broken}"
        latency_s = time.perf_counter() - self._start - sent_s
        if status not in (200, NO_ANSWER):
            error = body[:300].decode(errors="replace")
        keep = status == 200 and self._kept[request] < self._keep_bodies
        self._kept[request] += keep
        return Answer(request, status, sent_s, latency_s, headers, len(body), body if keep else None, error)


class _Connection:
    """One keep-alive connection; a server may end it between two answers, then it is opened anew."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        self.close()
        self._reader, self._writer = await asyncio.open_connection(*self._address, limit=STREAM_LIMIT_BYTES)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with names in lower case, body. Raises OSError, EOFError, ValueError if there is none."""
        if self._writer is None or self._reader.at_eof():
            await self.open()
        assert self._writer is not None
        self._writer.write(request)
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        body = await self._body(headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(head[0].split(" ", 2)[1]), headers, body

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        pieces = []
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            pieces.append((await self._reader.readexactly(size + 2))[:-2])
        while (await self._reader.readline()).strip():  # trailers
            pass
        return b"".join(pieces)
