"""The report as one HTML file: verdict, the figures that matter, charts, tables, and where it all comes from.

path.write_text(page(result, charts), encoding="utf-8")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from benchmarks import host

HEADLINE_FIGURES = 6

STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--dim:#59636e;--paper:#fff;--card:#f6f8fa;--line:#d1d9e0;--good:#1a7f37;
--bad:#cf222e;--0:#0969da;--1:#bc4c00;--2:#1a7f37;--3:#8250df;--4:#bf3989;--5:#0f7c86;--6:#9a6700;--7:#6e7781}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9198a1;--paper:#0d1117;--card:#161b22;--line:#30363d;
--good:#3fb950;--bad:#ff7b72;--0:#58a6ff;--1:#f0883e;--2:#56d364;--3:#bc8cff;--4:#f778ba;--5:#39c5cf;--6:#d4a72c;
--7:#8b949e}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1180px;padding:28px 20px 60px;background:var(--paper);
color:var(--ink);font:15px/1.5 system-ui,sans-serif}h1{font-size:26px;margin:0}h2{font-size:18px;margin:34px 0 10px}
.dim{color:var(--dim);margin:2px 0 18px}.verdict{display:inline-block;padding:3px 12px;border-radius:14px;color:#fff;
font-weight:600;font-size:14px;vertical-align:4px;margin-left:10px}.held{background:#1a7f37}.missed{background:#cf222e}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px}.card{background:var(--card);
border:1px solid var(--line);border-radius:8px;padding:12px 14px}.card b{display:block;font-size:25px;line-height:1.2}
.card span{color:var(--dim);font-size:13px}.charts{display:grid;
grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:18px}figure{margin:0;background:var(--card);
border:1px solid var(--line);border-radius:8px;padding:12px}figcaption{font-weight:600;margin-bottom:6px}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font:12px system-ui,sans-serif}svg text.strong{
fill:var(--ink);font-weight:600}.grid{stroke:var(--line);stroke-width:1}.limit{stroke:var(--bad);stroke-dasharray:6 4}
svg text.limit,svg text.mark{paint-order:stroke;stroke:var(--card);stroke-width:5px;stroke-dasharray:none}
svg text.limit{fill:var(--bad)}.mark{stroke:var(--dim);stroke-dasharray:3 3}svg text.mark{
fill:var(--ink)}polyline{fill:none;stroke-width:2}.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;
font-variant-numeric:tabular-nums}td,th{padding:5px 12px;border-bottom:1px solid var(--line);text-align:right;
white-space:nowrap}td:first-child,th:first-child{text-align:left}th{color:var(--dim);font-weight:600}
ul.missing{color:var(--dim)}li.bad{color:var(--bad)}code{background:var(--card);border:1px solid var(--line);
border-radius:5px;padding:1px 6px;overflow-wrap:anywhere}
""" + "".join(f".c{n}{{stroke:var(--{n})}}.f{n}{{fill:var(--{n})}}" for n in range(8))


def page(result: Mapping[str, Any], charts: Sequence[str], highlights: Sequence[str]) -> str:
    """A whole page. result: as result.json; charts: SVG; highlights: names of the figures on top."""
    held = not result["failures"]
    badge = f'<span class="verdict {"held" if held else "missed"}">{"passed" if held else "failed"}</span>'
    tables = "".join(
        f"<h2>{escape(title)}</h2>{table(rows)}" for title, rows in result["tables"].items() if rows
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>segserve: {escape(result["scenario"])}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(result['scenario'])}{badge}</h1>"
        f'<p class="dim">{escape(host.headline(result))}</p>{_failures(result)}{_cards(result["figures"], highlights)}'
        f'<h2>Charts</h2><div class="charts">{"".join(chart for chart in charts if chart)}</div>{tables}'
        f"{_provenance(result)}</body></html>\n"
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys."""
    head = "".join(f"<th>{escape(str(key))}</th>" for key in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(shown(v))}</td>" for v in row.values()) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def shown(value: object) -> str:
    """A figure with as many digits as one reads."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _failures(result: Mapping[str, Any]) -> str:
    return "<ul>" + "".join(f'<li class="bad">{escape(line)}</li>' for line in result["failures"]) + "</ul>"


def _cards(figures: Mapping[str, Mapping[str, Any]], highlights: Sequence[str]) -> str:
    cards = []
    for name in [name for name in highlights if name in figures][:HEADLINE_FIGURES]:
        unit = figures[name]["unit"]
        cards.append(
            f'<div class="card"><b>{escape(shown(figures[name]["value"]))} <span>{escape(unit)}</span></b>'
            f"<span>{escape(name)}</span></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _provenance(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    missing = "".join(f"<li>{escape(line)}</li>" for line in result["missing"])
    absent = f'<h2>Not measured</h2><ul class="missing">{missing}</ul>' if missing else ""
    return (
        f"{absent}<h2>Where this comes from</h2><p><code>{escape(result['command'])}</code></p>"
        f'<p class="dim">{escape(host.headline(result))}, {result["memory_gib"]} GiB; Python '
        f"{escape(result['python'])}, {escape(versions)}</p>"
    )
