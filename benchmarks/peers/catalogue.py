"""Who takes part: how each server is started, asked, and read."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from benchmarks import client
from benchmarks.peers import content, servers
from benchmarks.peers.servers import REPOSITORY, Server
from benchmarks.ports import free_ports
from segserve.errors import CheckFailed
from segserve.spec import ModelSpec

MAX_RESPONSE_BYTES = 400_000_000
"""TorchServe's limit for the peer: JSON of a 3 MP mask, one number a line, is some 40 MB."""
BOUNDARY = "segserve-peers"


@dataclass(frozen=True)
class Settings:
    """How a server is run; the axes of the sweep."""

    workers: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.workers}x{self.threads}x{self.batch}"

    @classmethod
    def parse(cls, text: str) -> Settings:
        """From WORKERSxTHREADSxBATCH. Raises: ValueError."""
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
            raise ValueError(f"{text!r} is not WORKERSxTHREADSxBATCH, such as 2x1x4")
        return cls(*map(int, text.split("x")))


@dataclass(frozen=True)
class Model:
    """The weights under test: a folder that export.build wrote, its spec, and the .mar that we serve."""

    folder: Path
    spec: ModelSpec
    mar: Path

    def settings(self, settings: Settings, port: int) -> dict[str, object]:
        """For benchmarks.peers.apps.usual.Settings."""
        return {
            "model": str((self.folder / "model.onnx").resolve()),
            "height": self.spec.input.height,
            "width": self.spec.input.width,
            "align_corners": self.spec.align_corners,
            "palette": [value for colour in self.spec.palette for value in colour],
            "port": port,
            **asdict(settings),
        }


@dataclass(frozen=True)
class Peer:
    """One way to serve the model. `package` names the distribution whose version is reported."""

    name: str
    title: str
    package: str
    start: Callable[[Model, Settings, Path, Path], contextlib.AbstractContextManager[Server]]
    request: Callable[[str, bytes], bytes]
    labels: Callable[[bytes], content.Labels]


@contextlib.contextmanager
def ours(model: Model, _settings: Settings, _python: Path, work: Path) -> Iterator[Server]:
    """The .mar as it was packaged and tuned: it brings its own workers, threads and batch size."""
    store = work / "store"
    store.mkdir(parents=True)
    shutil.copyfile(model.mar, store / "peer.mar")
    with servers.torchserve(store, "peer.mar", REPOSITORY / "config.properties", work) as server:
        yield server


@contextlib.contextmanager
def torchserve(model: Model, settings: Settings, _python: Path, work: Path) -> Iterator[Server]:
    """TorchServe and TorchScript in the style of image_segmenter, with the server settings that we use ourselves."""
    store = work / "store"
    store.mkdir(parents=True)
    archive(model, settings, store, work / "staged")
    config = work / "config.properties"
    text = (REPOSITORY / "config.properties").read_text()
    config.write_text(re.sub(r"(?m)^max_response_size=.*$", f"max_response_size={MAX_RESPONSE_BYTES}", text))
    with servers.torchserve(store, "peer.mar", config, work) as server:
        yield server


def archive(model: Model, settings: Settings, store: Path, staged: Path) -> None:
    """Write STORE/peer.mar with the handler of the peer. Raises: CheckFailed with what the archiver said."""
    apps = REPOSITORY / "benchmarks" / "peers" / "apps"
    for file in ("__init__.py", "peers/__init__.py", "peers/apps/__init__.py", "peers/apps/usual.py"):
        target = staged / "files" / "benchmarks" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / "benchmarks" / file, target)
    (staged / "tmp").mkdir()
    config = staged / "model-config.yaml"
    config.write_text(yaml.safe_dump(model_config(model, settings)))
    arguments = [
        sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "peer", "--version", "1.0",
        "--serialized-file", str(model.folder / "model.pt"), "--handler", str(apps / "torchserve_handler.py"),
        "--extra-files", str(staged / "files"), "--config-file", str(config), "--export-path", str(store),
        "--archive-format", "zip-store",
    ]  # fmt: skip
    scratch = os.environ | {"TMPDIR": str(staged / "tmp")}
    done = subprocess.run(arguments, env=scratch, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckFailed(f"torch-model-archiver failed: {done.stderr.strip()[-600:]}")


def model_config(model: Model, settings: Settings) -> dict[str, object]:
    """TorchServe's model-config.yaml of the peer."""
    return {
        "minWorkers": settings.workers,
        "maxWorkers": settings.workers,
        "batchSize": settings.batch,
        "maxBatchDelay": 20,
        "responseTimeout": 600,
        "peer": {
            "threads": settings.threads,
            "height": model.spec.input.height,
            "width": model.spec.input.width,
            "align_corners": model.spec.align_corners,
        },
    }


def started_with(
    *arguments: str,
) -> Callable[[Model, Settings, Path, Path], contextlib.AbstractContextManager[Server]]:
    """A peer that is a process of its own environment. {bin}, {python} and {port} are filled in."""

    def start(
        model: Model, settings: Settings, python: Path, work: Path
    ) -> contextlib.AbstractContextManager[Server]:
        (port,) = free_ports(1)
        filled = [part.format(python=python, bin=python.parent, port=port) for part in arguments]
        return servers.process(filled, model.settings(settings, port), python, work)

    return start


def raw(path: str) -> Callable[[str, bytes], bytes]:
    """Requests whose body is the photo."""

    def request(url: str, jpeg: bytes) -> bytes:
        return client.post(url + path, jpeg, {"Content-Type": "image/jpeg", "Accept": "*/*"})

    return request


def form(path: str, field: str) -> Callable[[str, bytes], bytes]:
    """Requests that carry the photo as a file of a form."""

    def request(url: str, jpeg: bytes) -> bytes:
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="photo.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()
        return client.post(url + path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})

    return request


APPS = "benchmarks.peers.apps"
OURS = Peer("ours", "segserve", "torchserve", ours, raw("/predictions/peer"), content.from_png)
PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "torchserve", "TorchServe, image_segmenter style", "torchserve", torchserve,
            raw("/predictions/peer"), content.from_nested_lists,
        ),
        Peer(
            "litserve", "LitServe", "litserve", started_with("{python}", "-m", f"{APPS}.litserve_app"),
            form("/predict", "image"), content.from_png,
        ),
        Peer(
            "ray", "Ray Serve", "ray", started_with("{python}", "-m", f"{APPS}.ray_app"),
            raw("/"), content.from_png,
        ),
        Peer(
            "bentoml", "BentoML", "bentoml",
            started_with(
                "{bin}/bentoml", "serve", "--host", "127.0.0.1", "--port", "{port}", f"{APPS}.bentoml_app:Segmenter"
            ),
            form("/segment", "photos"), content.from_base64_list,
        ),
    )
}  # fmt: skip
