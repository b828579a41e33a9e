"""Charts as inline SVG, coloured by CSS, so that a page needs no script, no file beside it, and reads by night too.

lines(Chart("Latency", "clients", "ms"), [Series("p50", [(1, 60.0), (2, 110.0)])], limits=[("SLO p50", 500.0)])
stacked("Anatomy", "ms", [("1 client", {"engine": 58.0, "decode": 6.0})])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 46, 46
COLOURS = 8
"""Classes c0 to c7 of the page's style sheet."""
MANY_POINTS = 24
"""A line with more of them gets no dots."""


@dataclass(frozen=True)
class Chart:
    """Title, axes. spread: points stand at equal distances, as 1, 2, 4, 8 clients do, not to scale."""

    title: str
    x_label: str
    y_label: str
    spread: bool = False


@dataclass(frozen=True)
class Series:
    """A line through points (x, y); colour: number of its colour."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0


def lines(
    chart: Chart, series: Sequence[Series], limits: Sequence[tuple[str, float]] = (),
    marks: Sequence[tuple[str, float]] = (),
) -> str:  # fmt: skip
    """Lines; limits: horizontal dashed ones; marks: vertical ones at x. Empty text if there are no points.

    A limit that is more than three times what was reached is left out: the lines would lie flat on the ground.
    """
    points = [point for one in series for point in one.points if math.isfinite(point[1])]
    if not points:
        return ""
    near = [(name, y) for name, y in limits if y < 3 * max(y for _, y in points)]
    ticks = nice_ticks(max([y for _, y in points] + [y for _, y in near]))
    scale = _Scale(tuple(sorted({x for x, _ in points})), ticks[-1], chart.spread)
    parts = _axes(chart, ticks, scale)
    for one in series:
        parts += _line(one, scale)
    for name, y in near:
        at = scale.y(y)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(WIDTH - RIGHT, at - 5, f"{name} {y:g}", "end", "limit"))
    parts += _marks(marks, scale)
    parts += _legend([(one.name, one.colour) for one in series])
    return _figure(chart.title, parts, HEIGHT)


@dataclass(frozen=True)
class _Scale:
    """Where points stand in the picture."""

    xs: tuple[float, ...]
    top: float
    spread: bool

    def has(self, x: float) -> bool:
        return x in self.xs if self.spread else self.xs[0] <= x <= self.xs[-1]

    def x(self, x: float) -> float:
        width = WIDTH - LEFT - RIGHT
        if self.spread:
            return LEFT + width * (self.xs.index(x) + 0.5) / len(self.xs)
        return LEFT + width * (x - self.xs[0]) / ((self.xs[-1] - self.xs[0]) or 1)

    def y(self, y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - y / self.top)


def stacked(title: str, unit: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Horizontal bars of parts, to one scale from zero, the sum at their end. Empty text if there are none."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    ticks = nice_ticks(max(sum(parts.values()) for _, parts in rows))
    left, height, bar = 130, TOP + 34 * len(rows) + 30, 22
    scale = (WIDTH - left - 80) / ticks[-1]
    drawn = []
    for tick in ticks:
        x = left + tick * scale
        drawn.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 26}"/>')
        drawn.append(_text(x, height - 10, f"{tick:g}", "middle"))
    for number, (label, parts) in enumerate(rows):
        x, y = float(left), TOP + 6 + 34 * number
        drawn.append(_text(left - 8, y + 15, label, "end"))
        for name, value in parts.items():
            tip = f"{label}, {name}: {_short(value)} {unit}"
            width, colour = max(0.0, value * scale), names.index(name) % COLOURS
            drawn.append(
                f'<rect class="f{colour}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{bar}">'
                f"<title>{escape(tip)}</title></rect>"
            )
            x += value * scale
        drawn.append(_text(x + 6, y + 15, f"{_short(sum(parts.values()))} {unit}", "start", "strong"))
    drawn += _legend([(name, number) for number, name in enumerate(names)])
    return _figure(title, drawn, height)


def nice_ticks(largest: float) -> list[float]:
    """From 0 to beyond `largest` in three to six equal steps of 1, 2 or 5 times a power of ten."""
    if not largest > 0:
        return [0.0, 1.0]
    rough = largest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
    return [round(n * step, 10) for n in range(math.ceil(largest / step * 0.999) + 1)]


def _axes(chart: Chart, ticks: Sequence[float], scale: _Scale) -> list[str]:
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(tick):.1f}" y2="{scale.y(tick):.1f}"/>'
        + _text(LEFT - 8, scale.y(tick) + 4, f"{tick:g}", "end")
        for tick in ticks
    ]
    shown = scale.xs if scale.spread else [tick for tick in nice_ticks(scale.xs[-1]) if scale.has(tick)]
    parts += [_text(scale.x(x), HEIGHT - BOTTOM + 18, f"{x:g}", "middle") for x in shown]
    parts.append(_text(LEFT - 8, TOP - 14, chart.y_label, "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, chart.x_label, "middle"))
    return parts


def _line(one: Series, scale: _Scale) -> list[str]:
    whole = [(scale.x(x), scale.y(y), x, y) for x, y in one.points if math.isfinite(y)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in whole)
    parts = [f'<polyline class="c{one.colour % COLOURS}" points="{path}"/>']
    if len(whole) <= MANY_POINTS:
        parts += [
            f'<circle class="f{one.colour % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
            f"<title>{escape(one.name)}: {value:.4g} at {at:g}</title></circle>"
            for x, y, at, value in whole
        ]
    return parts


def _marks(marks: Sequence[tuple[str, float]], scale: _Scale) -> list[str]:
    parts = []
    for number, (name, value) in enumerate(marks):
        if not scale.has(value):
            continue
        x = scale.x(value)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        side, anchor = (-4, "end") if x + 7 * len(name) > WIDTH - RIGHT else (4, "start")
        parts.append(_text(x + side, TOP + 12 + 14 * (number % 3), name, anchor, "mark"))
    return parts


def _legend(entries: Sequence[tuple[str, int]]) -> list[str]:
    """In one row, or in two if they are many."""
    parts, x, y = [], float(LEFT + 10), 8
    for name, colour in entries:
        width = 26 + 6.1 * len(name)
        if x + width > WIDTH:
            x, y = float(LEFT + 10), y + 15
        parts.append(f'<rect class="f{colour % COLOURS}" x="{x:.1f}" y="{y}" width="10" height="10" rx="2"/>')
        parts.append(_text(x + 14, y + 9, name, "start"))
        x += width
    return parts


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(title: str, parts: Sequence[str], height: float) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )
