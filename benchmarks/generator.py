"""How much load one client core can make: Locust and the raw client against a server that answers at once.

    python -m benchmarks.generator
    python -m benchmarks.generator --seconds 30 --json

The server is a process of its own that sends the same answer again and again, a palette PNG with our headers. Both
clients send one photo in a closed loop. `per core` is what one core of the client could drive if it did nothing else:
requests over the seconds of CPU that the client used. A load test that needs more needs more processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import psutil  # type: ignore[import-untyped]
import tyro
from PIL import Image
from rich.console import Console

from benchmarks import host, loaded
from benchmarks.answers import BATCH_SIZE_HEADER, DEVICE_HEADER, ENGINE_HEADER, TIMING_HEADER, VERSION_HEADER
from benchmarks.client import drive, post
from segserve.cli import run
from segserve.encode import png
from segserve.errors import CheckFailed, UsageError
from segserve.labels import ROOM_CLASSES, palette
from training.rooms import render

SEED = 7_000_004
MODEL = "rooms"


@dataclass(frozen=True)
class Config:
    """What is sent, and for how long."""

    seconds: float = 10.0
    """Of each client."""
    users: int = 8
    """Requests on their way at any time."""
    height: int = 960
    """Of the photo and its mask."""
    width: int = 1280
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the report as JSON."""

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.users < 1 or min(self.height, self.width) < 64:
            raise UsageError("--seconds: more than 0; --users: at least 1; --height, --width: at least 64")


class _AtOnce(asyncio.Protocol):
    """Reads a request to its end and sends the answer in one piece."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._seen, self._missing = answer, b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._seen += data
            head, end, body = self._seen.partition(b"\r\n\r\n")
            if not end:
                return
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            self._seen, self._missing, data = b"", int(length or 0), body
        self._missing -= len(data)
        if self._missing <= 0:
            self._missing = 0
            self._transport.write(self._answer)  # type: ignore[attr-defined]  # a stream has it


def answer_of(mask_png: bytes) -> bytes:
    """A whole HTTP answer, with the headers of the real server."""
    headers = {
        "Content-Type": "image/png", "Content-Length": str(len(mask_png)), VERSION_HEADER: "1.0",
        DEVICE_HEADER: "cpu", ENGINE_HEADER: "onnx", BATCH_SIZE_HEADER: "1",
        TIMING_HEADER: "decode;dur=0.001, engine;dur=0.001, mask;dur=0.001, encode;dur=0.001, total;dur=0.004",
    }  # fmt: skip
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + mask_png


def _serve(answer: bytes, told: Connection) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _AtOnce(answer), "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(forever())


@contextlib.contextmanager
def at_once(mask_png: bytes) -> Iterator[str]:
    """A server that answers every POST with that mask; gives its address."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(answer_of(mask_png), there), daemon=True
    )
    process.start()
    try:
        if not here.poll(60):
            raise CheckFailed("the server that answers at once did not start within 60 s")
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


def measure(config: Config) -> list[dict[str, Any]]:
    """One row for each client."""
    photo, labels = render(SEED, config.height, config.width)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=92)
    mask = png(labels, palette(len(ROOM_CLASSES)))
    with at_once(mask) as url, Console(stderr=True).status("the raw client") as status:
        rows = [_raw(config, url, file.getvalue())]
        status.update("Locust")
        rows.append(_locust(config, url, file.getvalue()))
    sizes = {"photo kB": len(file.getvalue()) / 1000, "mask kB": len(mask) / 1000}
    return [{**row, **sizes} for row in rows]


def _raw(config: Config, url: str, photo: bytes) -> dict[str, Any]:
    request = post(f"{url}/predictions/{MODEL}", photo, {"Accept": "image/png", "Content-Type": "image/jpeg"})
    began, cpu_s = time.monotonic(), time.process_time()
    load = drive(url, [request], config.users, config.seconds)
    seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu_s
    if load.failed:
        raise CheckFailed(f"{len(load.failed)} requests failed: {load.failed[0].error}")
    return _row("benchmarks.client", len(load.answers), seconds, cpu_s)


def _locust(config: Config, url: str, photo: bytes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="generator-") as work:
        photos, answers = Path(work) / "photos", Path(work) / "answers.jsonl"
        photos.mkdir()
        (photos / "room.jpg").write_bytes(photo)
        options = ("--formats", "png=1")
        with loaded.locust(
            url, MODEL, len(ROOM_CLASSES), config.users, answers, photos=photos, options=options
        ) as process:
            client = psutil.Process(process.pid)
            began, first, cpu_s = time.monotonic(), loaded.count(answers), _cpu_s(client)
            time.sleep(config.seconds)
            count, cpu_s = loaded.count(answers) - first, _cpu_s(client) - cpu_s
            seconds = time.monotonic() - began
        if wrong := [row["wrong"] for row in loaded.read(answers) if row["wrong"]]:
            raise CheckFailed(f"{len(wrong)} requests failed: {wrong[0]}")
    return _row("Locust, every answer judged", count, seconds, cpu_s)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _row(client: str, count: int, seconds: float, cpu_s: float) -> dict[str, Any]:
    return {
        "client": client,
        "requests/s": count / seconds,
        "cores used": cpu_s / seconds,
        "per core, requests/s": count / cpu_s,
    }


def main(config: Config) -> None:
    """Measure and print."""
    os.environ.pop("TOKEN_FILE", None)
    report = {**host.describe(), "users": config.users, "rows": measure(config)}
    if config.as_json:
        print(host.json_of(report, indent=2))
        return
    print(host.headline(report))
    print(host.markdown(report["rows"]))


if __name__ == "__main__":
    run(Config, main)
