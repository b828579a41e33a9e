"""A .mar that is slower than another and alike in everything else: what a comparison must find out.

    python -m benchmarks.slowed model_store/rooms.mar slower.mar --factor 1.2
    python -m benchmarks.compare model_store/rooms.mar slower.mar

Each call of its engine takes `factor` times as long, and keeps a core busy meanwhile, as a slower engine would; so
it answers fewer images/s too.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import mar_settings
from segserve.cli import run
from segserve.errors import UsageError
from segserve.package import HANDLER_FILE, MANIFEST, check_package
from segserve.parity_report import spec_sha256
from segserve.spec import PARITY_FILE, SPEC_FILE, ModelSpec

SLOWER_ENGINE = """

_initialize = SegmentationHandler.initialize


def _initialize_slower(self, context):
    import hashlib
    import time

    _initialize(self, context)
    kind = type(self._service._segmenter.engine)
    real, work = kind.__call__, bytes(100_000)

    def slower(engine, images):
        started = time.perf_counter()
        logits = real(engine, images)
        until = started + FACTOR * (time.perf_counter() - started)
        while time.perf_counter() < until:
            hashlib.sha256(work)  # a loop in Python would hold up the worker's other threads, an engine does not
        return logits

    kind.__call__ = slower


SegmentationHandler.initialize = _initialize_slower
"""


@dataclass(frozen=True)
class SlowedConfig:
    """Which package, and how much slower."""

    mar: tyro.conf.Positional[Path]
    """The .mar to begin with; it stays as it is."""
    out: tyro.conf.Positional[Path]
    """The .mar to write."""
    factor: float = 1.2
    """How many times as long its engine takes."""
    version: str = "slowed"
    """Its version number."""

    def __post_init__(self) -> None:
        mar_settings.require_files(self.mar, None)
        if self.factor < 1:
            raise UsageError(f"--factor {self.factor}: expected at least 1, an engine can't be made faster")
        if self.out.resolve() == self.mar.resolve():
            raise UsageError(f"{self.out}: give another file, the .mar stays as it is")


def main(config: SlowedConfig) -> None:
    """Write the package and check it like any other. Raises: CheckFailed if `mar` is none that can be served."""
    check_package(config.mar)
    slowed(config.mar, config.out, config.factor, config.version)
    check_package(config.out)
    print(
        f"{config.out}: the engine of {config.mar}, {config.factor} times as slow, version {config.version}"
    )


def slowed(source: Path, target: Path, factor: float, number: str = "slowed") -> Path:
    """A copy of `source` whose engine takes `factor` times as long. Returns: `target`."""
    return version(source, target, number, SLOWER_ENGINE.replace("FACTOR", repr(factor)))


def version(source: Path, target: Path, number: str, added_to_handler: str = "") -> Path:
    """The same package under another version number, its proof included. Returns: `target`."""
    with zipfile.ZipFile(source) as old, tempfile.TemporaryDirectory() as work:
        files = {name: old.read(name) for name in old.namelist()}
        spec = json.loads(files[SPEC_FILE])
        files[SPEC_FILE] = json.dumps({**spec, "version": number}, indent=2, sort_keys=True).encode()
        (Path(work) / SPEC_FILE).write_bytes(files[SPEC_FILE])
        digest = spec_sha256(ModelSpec.load(Path(work) / SPEC_FILE))
    files[PARITY_FILE] = json.dumps({**json.loads(files[PARITY_FILE]), "spec_sha256": digest}).encode()
    manifest = json.loads(files[MANIFEST])
    manifest["model"]["modelVersion"] = number
    files[MANIFEST] = json.dumps(manifest).encode()
    files[HANDLER_FILE] += added_to_handler.encode()
    with zipfile.ZipFile(target, "w") as new:
        for name, content in files.items():
            new.writestr(name, content)
    return target


if __name__ == "__main__":
    run(SlowedConfig, main)
