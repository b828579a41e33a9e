"""What the end-to-end tests share: starting a real server, asking it, and reading its answers independently of
the code that wrote them."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy import run_folder
from deploy.run_folder import Running

REPO = Path(__file__).resolve().parents[2]

ECHO = """
class Echo:
    def initialize(self, context): pass
    def handle(self, data, context): return [bytes(item["body"]) for item in data]
"""
"""The handler of a model that answers what it gets."""


@dataclass(frozen=True)
class Server:
    """A server that was started for tests, and a client for its inference API."""

    running: Running
    http: httpx.Client

    def post(
        self, image: bytes, path: str = "/predictions/rooms", accept: str | None = None, **parameters: str
    ) -> httpx.Response:
        headers = {"Content-Type": "application/octet-stream", "Accept": accept or "*/*"}
        return self.http.post(path, content=image, headers=headers, params=parameters)

    def management(self) -> httpx.Client:
        """To be closed."""
        transport = httpx.HTTPTransport(uds=self.running.management_socket)
        return httpx.Client(transport=transport, base_url="http://management", timeout=60)

    def worker_pids(self, model: str) -> list[int]:
        with self.management() as client:
            versions = client.get(f"/models/{model}/all").json()
        return [worker["pid"] for version in versions for worker in version["workers"]]


def command(*arguments: str | Path) -> list[str]:
    """A module of the repository as a command line."""
    return [sys.executable, "-m", *map(str, arguments)]


def run(*arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(*arguments), cwd=REPO, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@contextlib.contextmanager
def begun(
    *arguments: str | Path,
    stdout: int | None = None,
    stderr: int | None = None,
    start_new_session: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A module of the repository at work; killed at the end, whatever the test came to."""
    with subprocess.Popen(
        command(*arguments),
        cwd=REPO,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=start_new_session,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def start_options(store: Path, run_dir: Path, ports: Sequence[int], models: Sequence[str]) -> list[str]:
    """Options of `deploy.server start` for a server of its own."""
    inference, metrics = ports
    return [
        "--model-store", str(store), "--run-dir", str(run_dir), "--port", str(inference),
        "--metrics-port", str(metrics), "--models", *models,
    ]  # fmt: skip


def started(run_dir: Path) -> Running:
    """What server.json says."""
    running = run_folder.load(run_dir)
    assert running is not None
    return running


def at_once(server: Server, images: Sequence[bytes], path: str) -> list[httpx.Response]:
    """Post all images at the same time."""
    with ThreadPoolExecutor(len(images)) as pool:
        return list(pool.map(lambda image: server.post(image, path, "application/x-npy"), images))


def send_unreadable_form(server: Server, body: bytes) -> None:
    """TorchServe takes what curl sends by default for a form, cannot read it, and says so in the body's own words."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = server.http.post("/predictions/rooms", content=body + b"%zz=", headers=headers)
    assert answer.status_code == 500, answer.text


def labels_of(answer: httpx.Response) -> NDArray[np.uint8]:
    """The label map of a png or npy answer, uint8 (H, W)."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/x-npy":
        labels: NDArray[np.uint8] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return labels
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.mode == "P"
        return np.asarray(image)


def labels_of_json(answer: httpx.Response) -> NDArray[np.uint8]:
    """The label map that the outlines of a json answer add up to; 254 where no class is."""
    body = answer.json()
    labels = np.full((body["image"]["height"], body["image"]["width"]), 254, np.uint8)
    for found in body["classes"]:
        mask = decode_rle(found["rle"]["counts"], *found["rle"]["size"])
        assert int(mask.sum()) == found["pixels"]
        assert not (labels[mask] != 254).any()  # no pixel has two classes
        labels[mask] = found["id"]
    return labels


def decode_rle(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """COCO's compressed run lengths to a mask, after rleFrString and rleDecode of cocoapi/common/maskApi.c."""
    lengths: list[int] = []
    characters = iter(counts.encode())
    for character in characters:
        value, shift, group = 0, 0, character - 48
        while True:
            value |= (group & 31) << shift
            shift += 5
            if not group & 32:
                break
            group = next(characters) - 48
        if group & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def error_of(answer: httpx.Response) -> dict[str, str]:
    """The error of an answer that says so in our form."""
    assert answer.headers["content-type"] == "application/json", answer.text
    error: dict[str, str] = answer.json()["error"]
    assert set(error) == {"type", "message"}
    assert error["message"].strip()
    return error


def archive(
    path: Path, name: str, handler: str, settings: Mapping[str, object] | None = None, version: str = "1.0"
) -> None:
    """A minimal .mar with this handler source."""
    model = {
        "modelName": name,
        "handler": "handler.py",
        "modelVersion": version,
        "configFile": "model-config.yaml",
    }
    manifest = {"createdOn": "", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("handler.py", handler)
        file.writestr("model-config.yaml", json.dumps({"minWorkers": 1, "maxWorkers": 1, **(settings or {})}))


def repackaged(source: Path, target: Path, settings: Mapping[str, object]) -> None:
    """The same .mar with other settings for TorchServe."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "model-config.yaml":  # later keys win
                content += (
                    "\n" + "\n".join(f"{key}: {value}" for key, value in settings.items()) + "\n"
                ).encode()
            new.writestr(name, content)
