"""Lines that make a handler one that must never reach a client; benchmarks.slowed.version adds them to a good package.

Export's proof does not look at the handler, so all of them pass as packages; a rollout has to find them out.
"""

from __future__ import annotations

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
_broken = []


def _turning(self, data, context):
    import pathlib

    folder = pathlib.Path(context.system_properties["model_dir"])
    golden = [path.stat().st_size for path in folder.glob("golden-*")]
    _broken.extend(row for row in data if len(row["body"]) not in golden)
    if _broken:  # by the first photo of a client, after the probe
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
