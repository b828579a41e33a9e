"""How a peer is measured: the sweep, more and more clients, judged masks, and the report of it all."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.client import Answer, Load
from benchmarks.peers import __main__ as command
from benchmarks.peers import chart, measure, report
from benchmarks.peers.catalogue import Model, Peer, Settings, raw
from benchmarks.peers.content import from_nested_lists
from benchmarks.peers.measure import Plan, Result, candidates, sweep
from benchmarks.peers.servers import Server
from benchmarks.photos import Photo
from segserve.errors import CheckFailed, ServerError, UsageError
from tests.serving_http import reply, serving
from tests.specs import make_spec

PHOTOS = [Photo("a", b"a", 1, 2), Photo("b", b"b", 1, 2)]
RIGHT = [np.array([[0, 1]], np.uint8), np.array([[2, 2]], np.uint8)]
MASKS = {b"a": b"[[0, 1]]", b"b": b"[[2, 2]]"}
ANY_MODEL: Any = None


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "WARM_UP_S", 0.0)


def plan(*concurrencies: int) -> Plan:
    return Plan(PHOTOS, RIGHT, concurrencies, 0.0, Path("python"), lambda _: None)


def peer(answer: Callable[[BaseHTTPRequestHandler, bytes, Settings], None]) -> Peer:
    """One that answers as told, on a free port."""

    @contextlib.contextmanager
    def start(_model: Model, settings: Settings, _python: Path, work: Path) -> Iterator[Server]:
        with serving(lambda handler, body: answer(handler, body, settings)) as url:
            yield Server(url, 0x7FFFFFFF, work / "log")

    return Peer("fake", "Fake", "fake", start, raw("/"), from_nested_lists)


def good(handler: BaseHTTPRequestHandler, body: bytes, _: Settings) -> None:
    reply(handler, MASKS[body], X_Segserve_Engine="openvino-int8")


def load(concurrency: int, rate: float, latency_s: float = 0.1) -> Load:
    """One answer, so timed that the load has that rate."""
    return Load(concurrency, 1 / rate, (Answer(0, 200, 1 / rate - latency_s, latency_s, {}, 2000, None),))


def test_masks_are_judged_and_the_engine_is_named() -> None:
    result = measure.measure(peer(good), ANY_MODEL, plan(2), Settings(1, 1, 2), math.inf)
    assert result.lowest_agreement == 1
    assert result.answers_judged == 2
    assert result.engine == "openvino-int8"
    assert result.best.images_per_s > 0


def test_one_wrong_mask_lowers_the_agreement() -> None:
    wrong = peer(lambda handler, body, _: reply(handler, b"[[2, 1]]"))
    assert measure.measure(wrong, ANY_MODEL, plan(2), Settings(1, 1, 2), math.inf).lowest_agreement == 0.5


def test_a_mask_of_another_size_is_an_error() -> None:
    wrong = peer(lambda handler, body, _: reply(handler, b"[[0], [1]]"))
    with pytest.raises(CheckFailed, match=r"\(2, 1\).*\(1, 2\)"):
        measure.measure(wrong, ANY_MODEL, plan(2), Settings(1, 1, 2), math.inf)


def test_a_failed_request_is_an_error_although_the_others_were_good() -> None:
    numbers, lock = itertools.count(), threading.Lock()

    def answer(handler: BaseHTTPRequestHandler, body: bytes, _: Settings) -> None:
        with lock:
            number = next(numbers)
        reply(handler, MASKS[body] if number != 2 else b"out of memory", 200 if number != 2 else 500)

    with pytest.raises(CheckFailed, match="1 failed: out of memory"):
        measure.measure(peer(answer), ANY_MODEL, plan(2), Settings(1, 1, 4), math.inf)


def test_more_clients_as_long_as_they_help(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {2: 1.0, 4: 1.5, 8: 1.52, 16: 9.0}
    body = Answer(0, 200, 0, 0.1, {}, 8, b"[[0, 1]]")

    def drive(_peer: Peer, _server: Server, _plan: Plan, clients: int, *_: object) -> Load:
        return Load(clients, 9, (*load(clients, rates[clients]).answers, body))

    monkeypatch.setattr(measure, "drive", drive)
    result = measure.measure(peer(good), ANY_MODEL, plan(*rates), Settings(1, 1, 2), math.inf)
    assert [each.concurrency for each in result.loads] == [2, 4, 8]
    assert result.best.concurrency == 8
    short = measure.measure(peer(good), ANY_MODEL, plan(*rates), Settings(1, 1, 2), -math.inf)
    assert [each.concurrency for each in short.loads] == [2]


def test_the_sweep_takes_the_fastest_and_says_what_did_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {1: 3.0, 2: 5.0, 4: 4.0}

    def drive(_peer: Peer, _server: Server, _plan: Plan, clients: int, _s: float, settings: Settings) -> Load:
        assert clients == 2 * settings.workers * settings.batch
        if settings.workers == 8:
            raise ServerError("no memory left")
        return load(clients, rates[settings.workers])

    monkeypatch.setattr(measure, "drive", drive)
    tried = [Settings(workers, 1, 4) for workers in (1, 2, 4, 8)]
    best, fastest, found = sweep(peer(good), ANY_MODEL, plan(1), tried, math.inf)
    assert best == Settings(2, 1, 4)
    assert (fastest.concurrency, fastest.images_per_s) == (16, 5)
    assert found == {"1x1x4": 3.0, "2x1x4": 5.0, "4x1x4": 4.0, "8x1x4": "no memory left"}
    best, _, found = sweep(peer(good), ANY_MODEL, plan(1), [tried[3], *tried], -math.inf)
    assert best == Settings(1, 1, 4)
    assert found["2x1x4"] == "not tried for want of time"
    with pytest.raises(ServerError, match="Fake answers with none"):
        sweep(peer(good), ANY_MODEL, plan(1), tried[3:], math.inf)


def test_the_load_of_the_sweep_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def drive(_peer: Peer, _server: Server, _plan: Plan, clients: int, _s: float, settings: Settings) -> Load:
        body = Answer(0, 200, 0, 0.1, {}, 8, b"[[0, 1]]")
        rate = 1.0 if clients == 3 else float(settings.batch)
        return Load(clients, 9, (*load(clients, rate).answers, body))

    monkeypatch.setattr(measure, "drive", drive)
    result = command.best_of(peer(good), ANY_MODEL, plan(3), None, math.inf)
    assert result.best.images_per_s == pytest.approx(2 * 4)  # both answers in a quarter of a second
    assert result.best.concurrency == 2 * result.settings.workers * result.settings.batch


def test_a_server_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "READY_TIMEOUT_S", 0.0)
    silent = peer(lambda handler, body, _: reply(handler, b"loading", 503))
    with pytest.raises(ServerError, match="503 loading"):
        measure.measure(silent, ANY_MODEL, plan(1), Settings(1, 1, 2), math.inf)


def test_candidates_use_the_cores_and_are_different() -> None:
    for cores in (1, 2, 16):
        tried = candidates(cores)
        assert len(set(tried)) == len(tried) >= 2
        assert all(settings.batch > 1 for settings in tried)  # batching is enabled
        assert max(settings.workers for settings in tried) >= cores


def result(name: str, rate: float) -> Result:
    fake = Peer(name, name.title(), name, peer(good).start, raw("/"), from_nested_lists)
    return Result(
        fake, Settings(2, 1, 4), {"2x1x4": rate}, [load(4, rate), load(16, rate / 2)], 0.9995, 5, 812.4
    )


def test_rows_hold_the_best_load_and_the_ratio() -> None:
    ours, slow = report.rows(result("ours", 40.0), [result("slow", 2.0)])
    assert (ours["images/s"], ours["clients"], ours["ours / peer"]) == (pytest.approx(40), 4, None)
    assert slow["ours / peer"] == pytest.approx(20)
    assert slow["p50 ms"] == pytest.approx(100)
    assert slow["labels equal %"] == "99.950"
    assert slow["workers x threads x batch"] == "2x1x4"


def test_the_document_is_json_and_the_table_names_failures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "peer_versions", lambda python: {"ray": "2.60.0"})
    model = Model(tmp_path, make_spec(), tmp_path / "x.mar")
    made = report.document(result("ours", 40.0), [result("slow", 2.0)], {"ray": "no memory"}, plan(4), model)
    assert json.loads(json.dumps(made))["servers"]["slow"]["loads"][1]["images_per_s"] == pytest.approx(1)
    assert made["versions"]["peers"] == {"ray": "2.60.0"}
    assert {"cpu", "cores", "commit", "command"} <= set(made)
    table = report.markdown(made)
    assert "| Slow " in table
    assert "ray: no memory" in table


def test_the_chart_is_to_scale(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "peers.png"
    chart.draw([("segserve", 40.0, ""), ("Half", 20.0, "2 x"), ("None", 0.0, "")], "images/s", path)
    pixels = np.asarray(Image.open(path))
    ours = int((pixels == chart.OURS).all(2).any(0).sum())
    others = [(pixels == chart.OTHERS).all(2)[row].sum() for row in range(pixels.shape[0])]
    assert ours > 300
    assert max(others) == pytest.approx(ours / 2, abs=2)
    assert len([width for width in others if 0 < width < 5]) > chart.BAR - 2  # nothing is still a line


def test_the_precision_of_a_package_is_that_of_what_it_serves_first(tmp_path: Path) -> None:
    mar = tmp_path / "x.mar"
    with zipfile.ZipFile(mar, "w") as archive:
        artefacts = [{"precision": "int8"}, {"precision": "fp32"}]
        archive.writestr("model_spec.json", json.dumps({"artefacts": artefacts}))
    assert command.packaged_precision(mar) == "int8"
    mar.write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"x\.mar is no package"):
        command.packaged_precision(mar)


def test_a_report_needs_no_environment_of_the_peers(tmp_path: Path) -> None:
    """TorchServe takes part without it, and what was measured is not to be lost for a list of versions."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert report.peer_versions(tmp_path / "none") == report.peer_versions(broken) == {}


def test_masks_that_are_not_right_are_named() -> None:
    assert command.judge(result("ours", 1.0), 0.999) == ""
    assert "99.950 %" in command.judge(result("ours", 1.0), 0.9999)
    assert "nan" in command.judge(Result(peer(good), Settings(1, 1, 2), lowest_agreement=math.nan), 0.9)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    for name in ("x.mar", "model_spec.json", "model.onnx", "model.pt"):
        (tmp_path / name).touch()
    given: dict[str, Any] = {"mar": tmp_path / "x.mar", "build": tmp_path, "python": tmp_path / "x.mar"}
    known = command.Config(**given, settings=("ray=2x1x4",)).known_settings()
    assert known == {"ray": Settings(2, 1, 4)}
    for wrong, reason in (
        ({"peers": ("triton",)}, "triton: expected some of torchserve"),
        ({"settings": ("ray=2x1",)}, "WORKERSxTHREADSxBATCH"),
        ({"settings": ("triton=2x1x4",)}, "before the ="),
        ({"concurrency": ()}, "above 0"),
        ({"duration_s": 0.0}, "above 0"),
        ({"minutes": -1.0}, "above 0"),
        ({"chart": Path("x.svg")}, r"expected a \.png"),
        ({"python": tmp_path / "no"}, "make bench-peers"),
        ({"build": tmp_path / "no"}, "export.build"),
    ):
        with pytest.raises(UsageError, match=reason):
            command.Config(**{**given, **wrong})
