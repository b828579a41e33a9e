"""What a report says in JSON: numbers that any reader takes."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import decode, generator, host, input_shapes, masks, train_steps
from benchmarks.host import json_of
from benchmarks.peers import __main__ as peers
from segserve.labels import ROOM_CLASSES


def test_what_is_no_number_is_null_wherever_it_stands() -> None:
    document = {
        "p50 ms": math.nan,
        "rows": [{"s": (2.0, math.inf, -math.inf)}],
        "whole": 3,
        "text": "NaN",
        "no": None,
    }
    text = json_of(document)
    assert "NaN," not in text
    assert "Infinity" not in text
    assert json.loads(text) == {
        "p50 ms": None, "rows": [{"s": [2.0, None, None]}], "whole": 3, "text": "NaN", "no": None
    }  # fmt: skip
    assert math.isnan(document["p50 ms"])  # type: ignore[arg-type]  # the report itself is as it was


@pytest.mark.parametrize(
    ("module", "config"),
    [(train_steps, train_steps.TrainStepsConfig(presets=("pspnet18",), as_json=True)),
     (generator, generator.Config(as_json=True))],
    ids=["train_steps", "generator"],
)  # fmt: skip
def test_a_report_with_nothing_measured_is_json(
    module: Any, config: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "measure", lambda *_: [{"images/s": math.nan}])
    module.main(config)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["rows"] == [{"images/s": None}]


def test_a_photo_of_which_nothing_is_known_is_null_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = SimpleNamespace(classes=ROOM_CLASSES, input=SimpleNamespace(height=2, width=3), align_corners=True)
    for module in (decode, masks, input_shapes):
        monkeypatch.setattr(module, "checkpoint_segmenter", lambda _: SimpleNamespace(spec=spec))
    unknown = {"agreement": math.nan}
    monkeypatch.setattr(decode, "rendered", lambda: [("a", b"")])
    monkeypatch.setattr(decode, "compare", lambda *_: unknown)
    monkeypatch.setattr(decode, "thread_speedup", lambda *_: 1.0)
    monkeypatch.setattr(masks, "cases", lambda _: [])
    monkeypatch.setattr(masks, "encoder_rows", lambda *_: [unknown])
    monkeypatch.setattr(input_shapes, "measure", lambda *_: [unknown])
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    for module, key in ((decode, "rows"), (masks, "encoders"), (input_shapes, "rows")):
        module.main(module.Config(as_json=True))
        report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert report[key][0] == {"agreement": None}, module


def test_a_peer_of_which_nothing_is_known_is_null_in_both_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"server": "ours", "images/s": 1.0, "ours / peer": None, "p95 ms": math.nan}
    monkeypatch.setattr("benchmarks.peers.report.markdown", lambda _: "")
    config = SimpleNamespace(out=tmp_path / "out", chart=tmp_path / "chart.png", as_json=True)
    document = {"model": {"preset": "p", "input": "2x3", "classes": 3}, "cores": 2, "rows": [row]}
    peers.show(config, document)  # type: ignore[arg-type]
    for text in ((tmp_path / "out" / "peers.json").read_text(), capsys.readouterr().out):
        assert json.loads(text, parse_constant=pytest.fail)["rows"] == [row | {"p95 ms": None}]


def test_a_driver_that_hangs_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert host.gpus() == []


def test_it_can_be_indented_for_people() -> None:
    assert json_of({"a": [1]}, indent=1) == '{\n "a": [\n  1\n ]\n}'
