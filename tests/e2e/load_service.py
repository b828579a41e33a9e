"""The real service with a toy engine behind a few lines of HTTP, for load tests: it can be made to answer wrongly."""

from __future__ import annotations

import contextlib
import io
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segserve.request import Request
from segserve.segmenter import Segmenter
from segserve.service import Service
from tests.specs import make_spec

SPEC = make_spec(classes=("red", "green", "blue"))


class BrightestColour:
    """An engine whose class is the strongest colour of each 8 x 8 block."""

    name, device, provider, precision = "numpy", "cpu", "none", "fp32"

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3) → float32 (N, 3, H / 8, W / 8)."""
        n, height, width, _ = images_nhwc.shape
        blocks = images_nhwc.reshape(n, height // 8, 8, width // 8, 8, 3)
        logits: NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32).transpose(0, 3, 1, 2)
        return logits


def mirrored(photo: bytes) -> bytes:
    """Another photo of the same size, so another mask that looks as good."""
    file = io.BytesIO()
    ImageOps.mirror(ImageOps.exif_transpose(Image.open(io.BytesIO(photo)))).save(file, "PNG")
    return file.getvalue()


@contextlib.contextmanager
def service_over_http(tamper: Callable[[int, bytes], bytes]) -> Iterator[str]:
    """The real service behind a few lines of HTTP; `tamper` sees the number of the request and its photo."""
    service, lock, numbers = (
        Service(Segmenter(SPEC, BrightestColour()), 100_000_000),
        threading.Lock(),
        itertools.count(),
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            photo = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("content-type", "").startswith("multipart/"):
                photo = photo.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
            with lock:
                [reply] = service.answer([Request({"body": tamper(next(numbers), photo)}, headers)])
            self.send_response(reply.status)
            for name, value in {**reply.headers, "content-type": reply.content_type}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a load test hangs up when its time is over
                self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http_server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http_server.server_port}"
    finally:
        http_server.shutdown()
        thread.join()
        http_server.server_close()


def run_locust(
    repo_root: Path, url: str, photos: Path, *options: str, num_classes: int = 3
) -> tuple[int, str]:
    """As `make load` runs it, for a moment. Returns: exit code, everything that it said.

    Users think a little: the client must not be the bottleneck, which is a failure, too.
    """
    command = [
        sys.executable, "-m", "locust", "-f", "benchmarks/locustfile.py", "--headless", "--only-summary", "--users",
        "3", "--spawn-rate", "30", "--run-time", "2s", "--host", url, "--num-classes", str(num_classes), "--photos",
        str(photos), "--think-s", "0.05", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout + done.stderr
