"""The report of `benchmarks.run`: one file that needs no other, with what was measured in it; and options."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import charts, report_html
from benchmarks.report_charts import Chart, Series, lines, nice_ticks, stacked
from benchmarks.run_options import Capacity, Latency, PerGpu, Spike, Swap
from benchmarks.slo import Objective
from segserve.errors import UsageError
from tests.run_rows import BEGAN, phase, row

RESULT = {
    "scenario": "latency", "cpu": "A <fast> one", "cpu_features": ["avx2"], "cores": 2, "gpu": [], "memory_gib": 8.0,
    "python": "3.11", "versions": {"torch": "2.13.0"}, "commit": "abc1234", "command": "python -m benchmarks.run",
    "figures": {"p50 at 2": {"value": 61.2, "unit": "ms", "better": "lower", "samples": []}},
    "failures": [], "missing": ["GPU power: no driver"], "tables": {"Clients": [{"load": "2 & more", "p50 ms": 61.2}]},
}  # fmt: skip


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [(9, [0, 5, 10]), (430, [0, 200, 400, 600]), (0.03, [0, 0.01, 0.02, 0.03]), (0, [0, 1])],
)
def test_ticks_are_round_and_reach_beyond(largest: float, ticks: list[float]) -> None:
    assert nice_ticks(largest) == pytest.approx(ticks)


def test_lines_show_limit_and_mark() -> None:
    svg = lines(
        Chart("Latency", "clients", "ms"),
        [Series("p50", [(0, 60), (8, 200)])],
        [("SLO p50", 300.0)],
        [("knee", 4.0)],
    )
    assert {"SLO p50 300", "knee", "p50", "clients", "ms"} <= set(texts(svg))
    tree = ElementTree.fromstring(svg)
    [polyline] = tree.iter("polyline")
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in polyline.attrib["points"].split())
    assert x2 > x1
    assert y2 < y1  # more is higher up
    [limit] = [line for line in tree.iter("line") if line.attrib["class"] == "limit"]
    assert float(limit.attrib["y1"]) < y2


def test_clients_stand_at_equal_distances_and_the_knee_among_them() -> None:
    phases = [phase([row(BEGAN + 1, 50.0 * users)], users=users) for users in (1, 2, 64)]
    svg = charts.percentiles(phases, (Objective("a", p99_ms=5000), Objective("b", p99_ms=4000)), 2)
    assert {"SLO p99 4000", "knee", "1", "2", "64"} <= set(texts(svg))


def test_what_a_driver_does_not_tell_is_no_line_at_zero() -> None:
    """As in MIG mode, where no board tells its use and one tells its power."""
    samples = [
        {"t": BEGAN + n, "gpus": [{"busy": None, "power_w": None}, {"busy": None, "power_w": 200.0 + n}]}
        for n in range(3)
    ]
    busy, power = charts.gpus(samples)
    assert busy == ""
    first, second = ElementTree.fromstring(power).iter("polyline")
    assert first.attrib["points"] == ""
    assert len(second.attrib["points"].split()) == 3


def test_bars_are_to_scale() -> None:
    svg = stacked("t", "ms", [("1", {"engine": 60.0, "mask": 20.0})])
    rects = [node for node in ElementTree.fromstring(svg).iter("rect") if node.find("title") is not None]
    widths = [float(rect.attrib["width"]) for rect in rects]
    assert widths[0] == pytest.approx(3 * widths[1], abs=0.2)


def test_a_page_holds_all_and_needs_nothing() -> None:
    page = report_html.page(
        RESULT, [lines(Chart("Latency", "s", "ms"), [Series("p50", [(0, 1)])])], ["p50 at 2"]
    )
    for text in ("A &lt;fast&gt; one", "abc1234", "python -m benchmarks.run", "GPU power: no driver", "61.2", "passed",
                 "2 &amp; more", "torch 2.13.0", "<svg"):  # fmt: skip
        assert text in page
    assert not re.search(r"<script|<link|<img|https?://", page)
    assert "prefers-color-scheme:dark" in page


def test_a_failed_run_says_why_on_top() -> None:
    page = report_html.page({**RESULT, "failures": ["SLO 'masks': p50 was 900 ms"]}, [], [])
    assert page.index("p50 was 900 ms") < page.index("Charts")
    assert 'class="verdict missed"' in page


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    server, out = "http://127.0.0.1:1", tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        Latency(tmp_path / "full", server)
    with pytest.raises(UsageError, match="make package"):
        Latency(out, mar=tmp_path / "none.mar")
    with pytest.raises(UsageError, match="--concurrency"):
        Latency(out, server, concurrency=(0, 4))
    with pytest.raises(UsageError, match="--slo"):
        Capacity(out, server, slo=None)
    with pytest.raises(
        UsageError, match=r"--calm-s 5: expected at least 7, as the first 5 s are the warm-up"
    ):
        Spike(out, server, calm_s=5)
    with pytest.raises(UsageError, match="give --mar"):
        PerGpu(out, server)
    with pytest.raises(UsageError, match="no such file"):
        Swap(out, server, new=tmp_path / "none.mar")
