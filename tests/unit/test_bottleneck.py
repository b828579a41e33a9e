"""A load generator that was too busy measured itself: whoever drives it says so and fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import agreement, answers, endurance, loaded, rollouts
from benchmarks.agreement import AgreementConfig
from benchmarks.endurance import EnduranceConfig
from benchmarks.load_record import Record
from benchmarks.rollouts import RolloutsConfig
from deploy.metrics import Histogram
from tests.run_rows import BEGAN, row
from tests.unit.test_endurance import answer
from tests.unit.test_rollouts_benchmark import SWAP

ROWS = [{**answer(1.0 + n / 10), "version": "1.0"} for n in range(101)]


@pytest.fixture(params=[0.5, 0.97])
def busy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether Locust's log, as its own process writes it, tells of a core that was taken up."""
    record = Record(None, keep_rows=False)
    record.merge({"rows": [], "versions": [], "busiest": {"1": request.param}, "unwritten": {}})
    log = "\n".join(["Shutting down", *(f"error: {line}" for line in record.bottlenecks()), "Aggregated"])

    @contextlib.contextmanager
    def locust(
        url: str, name: str, classes: int, users: int, file: Path, *_: Any, **__: Any
    ) -> Iterator[None]:
        file.with_suffix(".log").write_text(log)
        yield

    running = SimpleNamespace(url="http://127.0.0.1:1", run_dir="run", metrics_url="")
    monkeypatch.setattr(loaded, "server", lambda *_: contextlib.nullcontext(running))
    monkeypatch.setattr(loaded, "locust", locust)
    monkeypatch.setattr(loaded, "read", lambda _: ROWS)
    for module in (agreement, endurance, rollouts):
        monkeypatch.setattr(module, "check_package", lambda path: spec(path.stem))
    return bool(request.param > 0.9)


def spec(version: str) -> SimpleNamespace:
    return SimpleNamespace(name="rooms", version=version, classes=("floor",))


def mar(folder: Path, version: str) -> Path:
    path = folder / f"{version}.mar"
    path.touch()
    return path


def test_endurance(
    tmp_path: Path, busy: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loaded, "count", lambda _: 100)
    monkeypatch.setattr(endurance, "memory", lambda *_: {})
    assert endurance.main(EnduranceConfig(mar(tmp_path, "1.0"), requests=100)) == int(busy)
    assert (
        "error: the client was the bottleneck: load process 1 used 97 %" in capsys.readouterr().err
    ) is busy


def test_endurance_without_a_mask_has_shown_nothing(
    tmp_path: Path, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a server that says for ever that it is full."""
    monkeypatch.setattr(loaded, "count", lambda _: 100)
    monkeypatch.setattr(endurance, "memory", lambda *_: {})
    monkeypatch.setattr(loaded, "read", lambda _: [answer(1.0 + n, 503) for n in range(101)])
    assert endurance.main(EnduranceConfig(mar(tmp_path, "1.0"), requests=100)) == 1


def test_rollouts(
    tmp_path: Path, busy: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rollouts, "_busy_for", lambda _: None)
    monkeypatch.setattr(rollouts, "sent_between", lambda rows, *_: rows)
    monkeypatch.setattr(rollouts, "roll_out", lambda *_: SWAP)
    monkeypatch.setattr(loaded, "require_load", lambda *_: None)
    config = RolloutsConfig(mar(tmp_path, "1.0"), mar(tmp_path, "2.0"), swaps=1)
    assert rollouts.main(config) == int(busy)
    assert ("error: the client was the bottleneck" in capsys.readouterr().err) is busy


def test_agreement(
    tmp_path: Path, busy: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = [row(BEGAN + n, 100.0, steps={"total": 50.0}) for n in range(10)]
    told = Histogram(10, 0.5, ((0.1, 10.0),))
    steps = SimpleNamespace(minus=lambda _: told)
    monkeypatch.setattr(agreement, "scrape", lambda _: SimpleNamespace(steps=lambda *_: steps))
    monkeypatch.setattr(agreement, "sleep_while_running", lambda *_: None)
    monkeypatch.setattr(time, "time", lambda: BEGAN - 1)
    monkeypatch.setattr(answers, "read", lambda _: ours)
    monkeypatch.setattr(agreement, "raw_turn", lambda *_: [100.0] * 10)
    assert agreement.main(AgreementConfig(mar(tmp_path, "1.0"), rounds=2)) == int(busy)
    said = capsys.readouterr().err.replace("\n", " ")
    assert ("error: turn 1: the client was the bottleneck" in said) is busy
    assert ("error: turn 2: the client was the bottleneck" in said) is busy
