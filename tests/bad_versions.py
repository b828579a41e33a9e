"""Versions that must never reach a client: a good package with a few lines added to its handler, and another number.

Export's proof does not look at the handler, so all of them pass as packages; a rollout has to find them out.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

from export.package import HANDLER, MANIFEST
from export.report import spec_sha256
from segserve.spec import PARITY_FILE, SPEC_FILE, ModelSpec

_WRAPPED_ENGINE = """

_initialize = SegmentationHandler.initialize


def _with_another_engine(self, context):
    _initialize(self, context)
    segmenter = self._service._segmenter
    real = segmenter.engine

    def __call__(images):
        logits = real(images)
{change}
        return logits

    segmenter.engine = type(real).__new__(type("Changed", (), {{
        "name": real.name, "precision": real.precision, "device": real.device, "provider": real.provider,
        "__call__": lambda self, images: __call__(images),
    }}))


SegmentationHandler.initialize = _with_another_engine
"""

CRASHES_AT_LOAD = """

def _crash(self, context):
    raise RuntimeError("the weights are not there")


SegmentationHandler.initialize = _crash
"""

HANGS_AT_LOAD = """

def _hang(self, context):
    import threading

    threading.Event().wait()


SegmentationHandler.initialize = _hang
"""

WRONG_CLASS_ORDER = _WRAPPED_ENGINE.format(change="        logits = logits[:, ::-1].copy()")
ONE_CLASS = _WRAPPED_ENGINE.format(change="        logits[:, 1:] = -100.0\n        logits[:, 0] = 100.0")
SLOW = """

_handle = SegmentationHandler.handle


def _slowly(self, data, context):
    import time

    started = time.perf_counter()
    answers = _handle(self, data, context)
    time.sleep(4 * (time.perf_counter() - started))
    return answers


SegmentationHandler.handle = _slowly
"""
SLOW_BY_A_SECOND = """

_handle = SegmentationHandler.handle


def _slowly(self, data, context):
    import time

    time.sleep(1)
    return _handle(self, data, context)


SegmentationHandler.handle = _slowly
"""
LEAKS = """

_handle = SegmentationHandler.handle
_kept = []


def _leaking(self, data, context):
    _kept.append(b"x" * 8_000_000)
    return _handle(self, data, context)


SegmentationHandler.handle = _leaking
"""
WRONG_AFTER_A_WHILE = """

_handle = SegmentationHandler.handle
_seen = []


def _turning(self, data, context):
    _seen.append(len(data))
    if sum(_seen) > 70:  # longer than the probe
        raise RuntimeError("the state is broken")
    return _handle(self, data, context)


SegmentationHandler.handle = _turning
"""

BAD = {
    "crashes at load": CRASHES_AT_LOAD,
    "hangs at load": HANGS_AT_LOAD,
    "wrong class order": WRONG_CLASS_ORDER,
    "one class": ONE_CLASS,
    "slow": SLOW,
    "leaks": LEAKS,
    "breaks later": WRONG_AFTER_A_WHILE,
}


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
    files[HANDLER.name] += added_to_handler.encode()
    with zipfile.ZipFile(target, "w") as new:
        for name, content in files.items():
            new.writestr(name, content)
    return target
