"""One real server for most end-to-end tests, and one with tokens. Both are ended by their process ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.front_process import Front
from segserve.segmenter import Segmenter
from tests.e2e.fronts import MAX_BYTES, Upstream, front_of, run_folder_of, stand_in
from tests.e2e.serving import Server, repackaged, run, start_options, started

VERSIONS = ("1.0", "2.0")
PATIENT = ("--ready-timeout-s", "280")  # a busy machine starts several workers in minutes


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, exported: Mapping[str, Path]) -> Path:
    """A model store with two versions of `rooms`, and `batched`, which waits for full batches."""
    folder = tmp_path_factory.mktemp("store")
    for version in VERSIONS:
        (folder / f"rooms-{version}.mar").write_bytes((exported[version] / "rooms.mar").read_bytes())
    repackaged(exported["1.0"] / "rooms.mar", folder / "batched.mar", {"batchSize": 8, "maxBatchDelay": 5000})
    return folder


@pytest.fixture(scope="session")
def offline_versions(exported: Mapping[str, Path]) -> dict[str, Segmenter]:
    """The same artefacts as the server's, without a server."""
    return {version: Segmenter.load(exported[version], threads=1) for version in VERSIONS}


@pytest.fixture(scope="session")
def offline(offline_versions: Mapping[str, Segmenter]) -> Segmenter:
    """The version that is served by default."""
    return offline_versions["1.0"]


@contextmanager
def serving(run_dir: Path, options: list[str]) -> Iterator[Server]:
    try:  # from here on, so that a start that takes too long leaves no Java behind either
        result = run("deploy.server", "start", "--detach", *options, *PATIENT, timeout_s=300)
        assert result.returncode == 0, result.stderr
        running = started(run_dir)
        url = running.url.replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=url, timeout=120) as client:
            yield Server(running, client)
    finally:
        assert run("deploy.server", "stop", "--run-dir", run_dir).returncode == 0


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A run folder that does not exist yet; a server that a failed test leaves in it is ended."""
    folder = tmp_path / "run"
    yield folder
    assert run("deploy.server", "stop", "--run-dir", folder).returncode == 0


@pytest.fixture(scope="session")
def server(
    store: Path, tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[Server]:
    """`rooms` 1.0 (the default) and 2.0, and `batched`; without tokens."""
    run_dir = tmp_path_factory.mktemp("run")
    models = [*(f"rooms=rooms-{version}.mar" for version in VERSIONS), "batched=batched.mar"]
    with serving(run_dir, start_options(store, run_dir, free_ports(2), models)) as server:
        yield server


@pytest.fixture(scope="module")
def token_server(
    store: Path, tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[Server]:
    """`rooms` 1.0 on all addresses of this machine, which turns tokens on."""
    run_dir = tmp_path_factory.mktemp("run")
    options = start_options(store, run_dir, free_ports(2), ["rooms=rooms-1.0.mar"])
    with serving(run_dir, [*options, "--host", "0.0.0.0"]) as server:
        yield server


@pytest.fixture(scope="module")
def front_before_stand_in(
    tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[tuple[Front, Upstream]]:
    """Real nginx before a stand-in for TorchServe."""
    with stand_in(Upstream()) as upstream:
        running = run_folder_of(upstream.url, tmp_path_factory.mktemp("front") / "run", MAX_BYTES)
        with front_of(running.run_dir, free_ports(1)[0]) as front:
            yield front, upstream


@pytest.fixture
def upstream(front_before_stand_in: tuple[Front, Upstream]) -> Upstream:
    """The stand-in, which has seen nothing yet and answers as usual."""
    upstream = front_before_stand_in[1]
    upstream.forget()
    return upstream


@pytest.fixture
def front(front_before_stand_in: tuple[Front, Upstream], upstream: Upstream) -> Front:
    """The front before `upstream`."""
    return front_before_stand_in[0]
