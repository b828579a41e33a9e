"""What the tests of the front share: a stand-in for TorchServe that is slow on purpose, and fronts before servers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy import processes, run_folder
from deploy.front_process import SYSTEM_PATH, Front, front_running
from deploy.run_folder import Running
from tests.e2e.serving import run

Reply = tuple[int, Mapping[str, str], bytes]
MAX_BYTES = 3 << 20
"""Of a photo, to the front of the fixtures."""
NEEDS_NGINX = pytest.mark.skipif(
    not (shutil.which("nginx") or shutil.which("nginx", path=SYSTEM_PATH)), reason="nginx is not installed"
)


@dataclass
class Upstream:
    """An HTTP/1.1 server that keeps connections, and what it saw. `answer` gets the request line, headers, body."""

    url: str = ""
    answer: Callable[[str, dict[str, str], bytes], Reply] = lambda line, headers, body: (200, {}, b"mask")
    delay_s: float = 0.0
    until: threading.Event | None = None  # inference waits for it
    at_a_time: int = 1_000_000
    lines: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    waiting: int = 0
    most_waiting: int = 0
    connections: int = 0

    def forget(self) -> None:
        """What it saw, and how a test let it answer."""
        self.lines.clear()
        self.headers.clear()
        self.answer = lambda line, headers, body: (200, {"Content-Type": "image/png"}, b"mask of " + body[:5])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.lines.append(head[0])
                self.headers.append(headers)
                self.waiting += 1
                self.most_waiting = max(self.most_waiting, self.waiting)
                async with self.workers:
                    await asyncio.sleep(self.delay_s)
                    while self.until and "/ping" not in head[0] and not self.until.is_set():
                        await asyncio.sleep(0.01)
                self.waiting -= 1
                status, more, said = self.answer(head[0], headers, body)
                fields = {"Content-Length": str(len(said)), **more}
                text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{text}\r\n".encode() + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run(self, port: int, ready: threading.Event, end: asyncio.Event) -> None:
        self.workers = asyncio.Semaphore(self.at_a_time)
        server = await asyncio.start_server(self.serve, "127.0.0.1", port, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await end.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


@contextmanager
def stand_in(upstream: Upstream, port: int = 0) -> Iterator[Upstream]:
    """Run it in a thread."""
    ready, end, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    def work() -> None:
        loop.run_until_complete(upstream.run(port, ready, end))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(10)
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


def run_folder_of(url: str, folder: Path, max_request_size: int = 33554432, queue: int = 300) -> Running:
    """A run folder as if deploy.server had started what listens there; its process is the one of the tests."""
    run_dir = run_folder.create(folder)
    me = os.getpid()
    running = Running(
        me, processes.identity(me), url, url, str(run_dir / "none.sock"), ("rooms",), "none", str(run_dir),
        str(run_dir / "tmp"), str(run_dir / "logs"), str(run_dir),
    )  # fmt: skip
    run_folder.save(running)
    config = f"max_request_size={max_request_size}\njob_queue_size={queue}\n"
    (run_dir / "config.properties").write_text(config)
    (run_dir / run_folder.LOCK_FILE).touch()
    return running


@contextmanager
def front_of(run_dir: Path | str, port: int, *options: str | Path) -> Iterator[Front]:
    """A front before the server of that run folder."""
    try:
        done = run("deploy.front", "start", "--run-dir", run_dir, "--port", str(port), *options)
        assert done.returncode == 0, done.stderr
        front = front_running(Path(run_dir))
        assert front is not None
        yield front
    finally:
        assert run("deploy.front", "stop", "--run-dir", run_dir).returncode == 0


def post(
    front: Front, path: str = "/predictions/rooms", body: bytes = b"photo", **more: str
) -> httpx.Response:
    """Field names of headers with _ for -."""
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    return httpx.post(front.url + path, content=body, headers=headers, timeout=60)


def logged(front: Front, request_id: str) -> dict[str, Any]:
    """The line of that request in the access log, once it is there."""
    log = front.folder / "logs" / "access.log"
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [
            line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == request_id
        ]
        return bool(found)

    assert processes.wait_until(there, 10), log.read_text()
    assert len(found) == 1
    return found[0]


def raw(front: Front, request: bytes, wait_s: float = 20.0) -> bytes:
    """Send these bytes as they are; what comes back until the front closes or the answer is whole."""
    host, port = front.settings.host, front.settings.port
    with socket.create_connection((host, port), timeout=wait_s) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            head, gap, body = received.partition(b"\r\n\r\n")
            length = next(
                (int(h[15:]) for h in head.split(b"\r\n") if h.startswith(b"Content-Length:")), None
            )
            if gap and length is not None and len(body) >= length:
                break
    return received
