"""The lines by which a worker tells its metrics, read as TorchServe reads them, and its line for the log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segserve.metrics import SMOOTHED_IMAGES, Metrics, label_value
from segserve.reply import Reply
from segserve.request import Request

CLASSES = ("wall", "floor")
# org.pytorch.serve.metrics.Metric, and what of a worker's lines WorkerLifeCycle hands to it
METRIC = re.compile(
    r"\[METRICS\]\s*([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(\|#type:([^|,]+))?\|#hostname:([^,]+),([^,]+)(,(.*))?"
)


@dataclass(frozen=True)
class Told:
    """One metric as TorchServe understands it."""

    name: str
    kind: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


def read(line: str) -> Told:
    found = METRIC.fullmatch(line)
    assert found, line
    pairs = [pair.split(":") for pair in found[4].split(",")]
    assert all(len(pair) == 2 and pair[1] for pair in pairs), line  # TorchServe leaves out what is not
    return Told(found[1], found[6], float(found[3]), dict(pairs))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def done(share_of_floor: float = 0.25, **changes: Any) -> Reply:
    values: dict[str, Any] = {
        "timings_ms": {"decode": 6.0, "engine": 58.25, "mask": 0.6, "encode": 2.3, "batch_wait": 1.0, "total": 68.15},
        "batch_size": 1,
        "photo_hw": (30, 40),
        "class_shares": np.array([1 - share_of_floor, share_of_floor]),
        **changes,
    }  # fmt: skip
    return Reply(values.pop("status", 200), "image/png", b"the mask", {}, **values)


def refused(status: int = 400) -> Reply:
    return done(status=status, timings_ms={"decode": 0.2, "total": 70.0}, batch_size=0, photo_hw=None,
                class_shares=None)  # fmt: skip


def told(metrics: Metrics, *replies: Reply) -> list[Told]:
    lines = metrics.lines([Request({"body": b"x"}) for _ in replies], replies).splitlines()
    return [read(line) for line in lines if not line.startswith("answered ")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics("rooms", "1.0", "cpu", CLASSES, clock)


def test_every_step_of_every_image_in_seconds(metrics: Metrics) -> None:
    steps = [told for told in told(metrics, done(), refused()) if told.name == "segserve_step_seconds"]
    assert {told.kind for told in steps} == {"HISTOGRAM"}
    assert [(told.labels["step"], told.value) for told in steps] == [
        ("decode", 0.006), ("engine", 0.05825), ("mask", 0.0006), ("encode", 0.0023), ("batch_wait", 0.001),
        ("total", 0.06815), ("decode", 0.0002), ("total", 0.07),
    ]  # fmt: skip
    assert steps[0].labels == {"model": "rooms", "version": "1.0", "device": "cpu", "step": "decode"}


def test_a_batch_is_counted_in_one_line_each(metrics: Metrics) -> None:
    batch = [done(batch_size=2), refused(), done(batch_size=2, photo_hw=(100, 10)), refused(422), refused()]
    counts = [told for told in told(metrics, *batch) if told.kind == "COUNTER"]
    assert [
        (told.name, told.labels.get("status"), told.labels.get("size"), told.value) for told in counts
    ] == [
        ("segserve_answers_total", "200", None, 2),
        ("segserve_answers_total", "400", None, 2),
        ("segserve_answers_total", "422", None, 1),
        ("segserve_images_total", None, None, 2),
        ("segserve_pixels_total", None, None, 2200),
        ("segserve_batches_total", None, "2", 1),
    ]


def test_images_that_the_engine_got_one_by_one_are_batches_of_one(metrics: Metrics) -> None:
    counts = told(metrics, done(batch_size=1), done(batch_size=1))
    assert [told.value for told in counts if told.labels.get("size") == "1"] == [2]


def test_a_batch_of_errors_has_no_images(metrics: Metrics) -> None:
    names = {told.name for told in told(metrics, refused())}
    assert names == {"segserve_step_seconds", "segserve_answers_total"}


def shares(metrics: Metrics, *replies: Reply) -> dict[str, float]:
    return {told.labels["class"]: told.value for told in told(metrics, *replies) if told.kind == "GAUGE"}


def test_class_shares_are_a_mean_that_forgets(metrics: Metrics, clock: Clock) -> None:
    assert shares(metrics, done(0.2)) == {"wall": 0.8, "floor": 0.2}
    clock.now_s += 1
    assert shares(metrics, done(0.4))["floor"] == pytest.approx(0.3)  # as yet the plain mean
    clock.now_s += 1
    half = shares(metrics, *[done(1.0)] * SMOOTHED_IMAGES)["floor"]
    clock.now_s += 1
    assert shares(metrics, *[done(1.0)] * 5 * SMOOTHED_IMAGES)["floor"] > 0.99 > half > 0.6
    assert shares(metrics, refused()) == {}


def test_class_shares_are_told_once_a_second_at_most(metrics: Metrics, clock: Clock) -> None:
    assert shares(metrics, done(0.2))
    clock.now_s += 0.9
    assert shares(metrics, done(0.4)) == {}
    clock.now_s += 0.2
    assert shares(metrics, refused())["floor"] == pytest.approx(0.3)  # none of them is lost


def test_names_that_would_break_a_line_are_mended(clock: Clock) -> None:
    metrics = Metrics("a:b", "1,0", "cuda:0", ("bed, double", "x|y\n[PID]1", ""), clock)
    reply = done(class_shares=np.array([0.5, 0.25, 0.25]))
    found = told(metrics, reply)
    assert {told.labels["model"] for told in found} == {"a-b"}
    assert {told.labels["version"] for told in found} == {"1;0"}
    assert {told.labels.get("device") for told in found} == {"cuda-0", None}
    assert [told.labels["class"] for told in found if told.kind == "GAUGE"] == [
        "bed; double", "x/y [PID]1", "-",
    ]  # fmt: skip
    assert label_value("\u2028größe\x85") == "größe"


def test_the_lines_are_declared_with_their_labels_in_order(metrics: Metrics, repo_root: Path) -> None:
    """TorchServe drops a metric that metrics.yaml does not name, and goes by the position of the labels."""
    declared = yaml.safe_load((repo_root / "deploy" / "metrics.yaml").read_text())["model_metrics"]
    expected = {
        (metric["name"], kind.upper(), tuple(metric["dimensions"]))
        for kind, listed in declared.items()
        for metric in listed
    }
    assert {(t.name, t.kind, tuple(t.labels)) for t in told(metrics, done())} == expected


# --- the log ----------------------------------------------------------------------------------------------------


def log_line(metrics: Metrics, request: Request, reply: Reply) -> str:
    [line] = [line for line in metrics.lines([request], [reply]).splitlines() if "[METRICS]" not in line]
    return line


def test_a_request_has_one_line_in_the_log(metrics: Metrics) -> None:
    request = Request({"data": b"12345", "format": "npy"}, {"x-request-id": "order-7/2"}, "uuid")
    assert log_line(metrics, request, done()) == (
        "answered request=order-7/2 server_id=uuid model=rooms version=1.0 status=200 bytes_in=8 photo=40x30 "
        "total_ms=68.2"
    )
    assert log_line(metrics, Request({}, {}, "uuid"), refused()) == (
        "answered request=uuid server_id=uuid model=rooms version=1.0 status=400 bytes_in=0 photo=- total_ms=70.0"
    )


@pytest.mark.parametrize(
    "sent", ["", "a b", "a\nanswered request=b", "\x1b[31m", "[METRICS]x", "é", "x" * 129, 'a"b', "a\u2028b"]
)
def test_an_id_that_could_forge_a_log_is_not_taken(metrics: Metrics, sent: str) -> None:
    line = log_line(metrics, Request({}, {"x-request-id": sent}, "uuid"), refused())
    assert line.startswith("answered request=uuid server_id=uuid ")


def test_nothing_of_the_content_is_logged(metrics: Metrics) -> None:
    secret = b"\x89PNG\r\n\x1a\nsecret"
    fields = {"body": secret, "classes": "secret", "\nsecret": "secret"}
    lines = metrics.lines([Request(fields, {"cookie": "secret"})], [done()])
    assert "secret" not in lines
    assert "PNG" not in lines
