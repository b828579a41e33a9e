"""Is B slower than A? The ratio of every figure with an interval, and a verdict that is not the machine's mood.

    python -m benchmarks.compare runs/before runs/after
    python -m benchmarks.compare model_store/rooms.mar build/two/rooms.mar --pairs 40

Two result folders of benchmarks.run: the slices of each figure are compared pair by pair. Both runs need the same
scenario and should be of the same machine at about the same time: what the machine did between them is in the ratio,
so the tolerance is wide. Other options, another machine, and that a run had failed, are told before the figures.

Two .mar: both are served at once and take turns under load, A B, B A, A B, … (benchmarks/turns.py), which cancels that.
That the masks differ is told, as it may be meant. `python -m benchmarks.slowed` makes a .mar to try this with.

A figure is "worse" if its whole interval is worse by more than the tolerance; all intervals hold together with
--confidence. How they are made, and from what literature: benchmarks/ratio.py. Not every figure of a folder has slices:
a capacity is judged by its range, requests lost by their number, and any other by its value alone, which is worse only
if it is beyond any doubt of one run; else it is unclear, and named. What only A has something of is worse.

Exit code 1: a figure is worse, or none could be compared.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import host, mar_settings, ratio, result_folder, turns
from benchmarks.mar_server import serving
from benchmarks.photos import assorted_photos, photos_of
from benchmarks.ratio import Better, By, Measured, Ratio, Verdict
from benchmarks.served import SEED
from segserve.cli import run
from segserve.errors import UsageError
from segserve.package import check_package

Figures = Mapping[str, Mapping[str, Any]]

TOLERANCE_TURNS, TOLERANCE_FOLDERS = 0.03, 0.10
"""Less than 3 % is not worth a failed build; what the machine does between two runs is easily 10 %."""
RANGE = (", low", ", high")
"""What the ends of a figure's range are called, beside the figure."""
CHANCE = {"s": 4.0}
"""By unit, how far bare values are apart by chance: a recovery is told in whole seconds, and queues differ."""
COUNTED = "requests"
"""The unit of what must not happen at all, such as requests lost."""
TOLD = "knee, clients"
"""Told, not judged: throughput at each number of clients is compared itself, and chance decides between neighbours."""
WORSE_BY: tuple[tuple[str, frozenset[By]], ...] = (
    ("Worse beyond doubt", frozenset({"ratios", "differences", "ranges"})),
    ("Worse by the value alone, which has no interval", frozenset({"values"})),
    ("Worse, as B has nothing where A has something", frozenset({"gaps"})),
)
"""How surely a figure is worse, by what its verdict rests on."""


@dataclass(frozen=True)
class CompareConfig:
    """What is compared, and how surely."""

    a: tyro.conf.Positional[Path]
    """Result folder or .mar that is the measure."""
    b: tyro.conf.Positional[Path]
    """Result folder or .mar that is judged."""
    pairs: int = 24
    """Two .mar: pairs of turns, about 6 s each with the demo model on two cores; more see smaller differences."""
    clients: int = 8
    """Two .mar: clients at once in the loaded half of a turn."""
    photos: Path | None = None
    """Two .mar: folder of photos (JPEG, PNG) instead of rendered rooms."""
    tolerance: float | None = None
    """Share by which B may be worse; left out, 0.03 for two .mar and 0.10 for two folders."""
    confidence: float = 0.99
    """With which all intervals hold together."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""

    def __post_init__(self) -> None:
        for path in (self.a, self.b):
            if not path.exists():
                raise UsageError(f"{path}: no such file or folder; give two result folders or two .mar files")
        if self.a.is_dir() != self.b.is_dir():
            raise UsageError(f"{self.a} and {self.b}: give two result folders or two .mar files")
        mar_settings.require_files(self.a if self.a.is_file() else Path(__file__), self.photos)
        if self.pairs < ratio.MIN_PAIRS or self.clients < 1:
            raise UsageError(f"--pairs: at least {ratio.MIN_PAIRS}; --clients: at least 1")
        if not 0 < self.confidence < 1 or (self.tolerance is not None and self.tolerance < 0):
            raise UsageError("--confidence: between 0 and 1; --tolerance: at least 0")


@dataclass(frozen=True)
class Row:
    """A figure of A and of B and what became of it; NaN where a side has none."""

    figure: str
    unit: str
    better: Better
    a: float
    b: float
    ratio: Ratio | None
    verdict: Verdict
    by: By


def main(config: CompareConfig) -> int:
    """Compare and show. Exit code as above."""
    if config.a.is_dir():
        tolerance = TOLERANCE_FOLDERS if config.tolerance is None else config.tolerance
        rows, notes = folders(config, tolerance)
    else:
        tolerance = TOLERANCE_TURNS if config.tolerance is None else config.tolerance
        rows, notes = in_turn(config, tolerance)
    report = {
        **host.describe(), "a": str(config.a), "b": str(config.b), "tolerance": tolerance,
        "confidence": config.confidence, "notes": notes, "figures": [asdict(row) for row in rows],
        "worse": [row.figure for row in rows if row.verdict == "worse"],
        "unclear": [row.figure for row in rows if row.verdict == "unclear"],
        "not_compared": [row.figure for row in rows if row.verdict == "not compared"],
    }  # fmt: skip
    print(host.json_of(report, indent=2) if config.as_json else _words(report, rows))
    return 1 if report["worse"] or len(report["not_compared"]) == len(rows) else 0


def folders(config: CompareConfig, tolerance: float) -> tuple[list[Row], list[str]]:
    """The figures of both folders. Raises: UsageError where they can't be compared at all."""
    a, b = result_folder.read(config.a), result_folder.read(config.b)
    if a["scenario"] != b["scenario"]:
        raise UsageError(
            f"{config.a} is of the scenario {a['scenario']}, {config.b} of {b['scenario']}: expected the same"
        )
    of_a, of_b = a["figures"], b["figures"]
    if not of_a.keys() & of_b.keys():
        raise UsageError(f"{config.a} and {config.b} have no figure in common")
    notes = result_folder.unlike(a, b)
    left = {TOLD, *(name + end for name in (*of_a, *of_b) for end in RANGE)}
    if TOLD in of_a and TOLD in of_b:
        notes.append(f"{TOLD}: {of_a[TOLD]['value']:g} against {of_b[TOLD]['value']:g}")
    common = [name for name in of_a if name in of_b and name not in left]
    kinds = {name: (of_a[name]["unit"], of_a[name]["better"]) for name in common}
    sides = {name: (_measured(of_a, name), _measured(of_b, name)) for name in common}
    rows = judged(kinds, sides, config.confidence, tolerance, independent=False)
    alone = [name for name in (*of_a, *of_b) if (name in of_a) != (name in of_b) and name not in left]
    return rows + [_only_in_one(name, of_a, of_b) for name in alone], notes


def _only_in_one(name: str, of_a: Figures, of_b: Figures) -> Row:
    """A device that did not answer, or another option: that is for people to know."""
    a, b = (of[name]["value"] if name in of else math.nan for of in (of_a, of_b))
    one = of_a.get(name) or of_b[name]
    return Row(name, one["unit"], one["better"], a, b, None, "not compared", "nothing")


def _measured(figures: Figures, name: str) -> Measured:
    """With its range, if it has one; a growth, which lies about 0, is held against the memory that grows."""
    ends = [figures[name + end]["value"] for end in RANGE if name + end in figures]
    value, samples, unit = (figures[name][key] for key in ("value", "samples", "unit"))
    memory = figures.get(name.replace(": growth", ": most memory"), figures[name])["value"]
    span = (ends[0], ends[1]) if len(ends) == 2 else None
    return Measured(value, samples, span, abs(memory), CHANCE.get(unit, 0.0), unit == COUNTED)


def in_turn(config: CompareConfig, tolerance: float) -> tuple[list[Row], list[str]]:
    """Serve both, let them take turns. Raises: CheckFailed if a request fails, ServerError."""
    for mar in (config.a, config.b):
        check_package(mar)
    photos = list(assorted_photos(SEED)) if config.photos is None else photos_of(config.photos)
    with (
        tempfile.TemporaryDirectory(prefix="compare-") as work,
        serving(config.a, mar_settings.read(config.a), Path(work, "a")) as first,
        serving(config.b, mar_settings.read(config.b), Path(work, "b")) as second,
    ):
        masks = [turns.warm_up(server, photos, config.clients) for server in (first, second)]
        of_a, of_b = turns.alternate((first, second), photos, config.pairs, config.clients)
    equal = turns.agreement(*masks)
    differ = sum(share < 1 for share in equal)
    notes = [
        f"masks: {differ} of {len(equal)} photos have other ones, at least {min(equal):.2%} of a mask's pixels agree"
        if differ else f"masks: the same for all {len(equal)} photos"
    ]  # fmt: skip
    samples = {name: ([turn[name] for turn in of_a], [turn[name] for turn in of_b]) for name in turns.FIGURES}
    sides = {
        name: (Measured(turns.mean(a), a), Measured(turns.mean(b), b)) for name, (a, b) in samples.items()
    }
    return judged(turns.FIGURES, sides, config.confidence, tolerance, independent=True), notes


def judged(
    kinds: Mapping[str, tuple[str, Better]],
    sides: Mapping[str, tuple[Measured, Measured]],
    confidence: float,
    tolerance: float,
    independent: bool,
) -> list[Row]:
    """A row for each figure; the intervals of all of them hold together with `confidence`."""
    each = ratio.each_confidence(confidence, len(kinds))
    rows = []
    for name, (unit, better) in kinds.items():
        a, b = sides[name]
        found = ratio.judge(a, b, better, tolerance, each, independent)
        rows.append(Row(name, unit, better, a.value, b.value, found.ratio, found.verdict, found.by))
    return rows


def _words(report: Mapping[str, Any], rows: Sequence[Row]) -> str:
    table = [
        {
            "figure": f"{row.figure} ({row.unit})", "A": row.a, "B": row.b,
            "B/A": None if row.ratio is None else f"{row.ratio.ratio:.3f}",
            "interval": row.by if row.ratio is None else f"{row.ratio.low:.3f} to {row.ratio.high:.3f}",
            "better is": row.better, "B is": f"**{row.verdict}**" if row.verdict == "worse" else row.verdict,
        }
        for row in rows
    ]  # fmt: skip
    return "\n".join([
        f"A: {report['a']}", f"B: {report['b']}", f"{host.headline(report)}", *report["notes"], "",
        host.markdown(table), "",
        "B/A is of pairs of turns or slices, whose intervals hold together with "
        f"{report['confidence']:.0%}; tolerance {report['tolerance']:.0%}.",
        *closing(rows),
    ])  # fmt: skip


def closing(rows: Sequence[Row]) -> list[str]:
    """What is worse and how surely, what may be chance, and what nothing can be said of."""
    lines = []
    for words, by in WORSE_BY:
        if names := [row.figure for row in rows if row.verdict == "worse" and row.by in by]:
            lines.append(f"{words}: {', '.join(names)}.")
    left_out = [row.figure for row in rows if row.verdict == "not compared"]
    if len(left_out) == len(rows):
        return ["Nothing could be compared."]
    if not lines:
        lines.append(f"{'No compared figure' if left_out else 'Nothing'} is worse beyond doubt.")
    if doubtful := [row.figure for row in rows if row.verdict == "unclear" and row.by == "values"]:
        lines.append(f"Unclear, as the value of one run shows no chance: {', '.join(doubtful)}.")
    if left_out:
        lines.append(f"Not compared, as a side has nothing of it: {', '.join(left_out)}.")
    return lines


if __name__ == "__main__":
    run(CompareConfig, main)
