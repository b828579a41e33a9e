"""What a load process saw: how busy it was, and that a master gets all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.answers import read
from benchmarks.load_record import UNWRITTEN, Record, busiest
from tests.unit.test_answers import answered


def test_the_busiest_window_counts_however_calm_the_rest_was() -> None:
    calm = [(float(t), 0.1 * t) for t in range(20)]
    busy = [(20.0 + t, 2.0 + 0.95 * t) for t in range(11)]
    after = [(31.0 + t, 11.5 + 0.1 * t) for t in range(50)]
    assert busiest([*calm, *busy, *after], window_s=10) == pytest.approx(0.95)
    assert busiest(calm, window_s=10) == pytest.approx(0.1)


def test_a_short_run_is_one_window() -> None:
    assert busiest([(0.0, 0.0), (1.0, 1.0), (4.0, 1.0)], window_s=10) == pytest.approx(0.25)
    assert busiest([(0.0, 0.0)]) == 0


def test_a_busy_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(None, keep_rows=False)
    record.merge({"rows": [], "versions": [], "busiest": {"one": 0.5, "two": 0.97}, "unwritten": {}})
    [said] = record.bottlenecks()
    assert "load process two used 97 % of a core" in said
    record.clear()
    assert record.bottlenecks() == []


def test_the_master_gets_every_answer_once(tmp_path: Path) -> None:
    worker, master = Record(tmp_path / "a.jsonl", keep_rows=True), Record(None, keep_rows=True)
    rows = [answered(photo=str(number), done=200.0 + number) for number in range(3)]
    for row in rows:
        worker.add(row)
        master.merge(worker.take())
    worker.add(answered(version="2.0", wrong="another mask"))
    worker.watch()
    worker.finish("host_1")
    master.merge(worker.take())
    assert [row.photo for row in master.rows] == ["0", "1", "2", "a"]
    assert master.versions == {"1.0"}
    assert set(master.busiest) == {"host_1"}
    assert master.seconds == 102
    assert read(tmp_path / "a.jsonl")[:3] == rows


def test_the_master_says_what_its_workers_could_not_write_down() -> None:
    """Each piece is merged once, also where several workers say the same."""
    master, workers = Record(None, keep_rows=False), [Record(None, keep_rows=False) for _ in range(2)]
    for worker in workers:
        for _ in range(2):
            worker.missed(OSError(28, "No space left on device"))
            master.merge(worker.take())
        master.merge(worker.take())
    master.missed(RuntimeError("another"))
    assert master.gaps() == [
        f"4 {UNWRITTEN}: OSError: [Errno 28] No space left on device",
        f"1 {UNWRITTEN}: RuntimeError: another",
    ]
    master.clear()
    assert master.gaps() == []


def test_rows_are_kept_for_objectives_only() -> None:
    record = Record(None, keep_rows=False)
    record.add(answered())
    assert (record.rows, record.versions, record.seconds) == ([], {"1.0"}, 0.0)
