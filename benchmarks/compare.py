"""Is B slower than A? The ratio of every figure with an interval, and a verdict that is not the machine's mood.

    python -m benchmarks.compare runs/before runs/after
    python -m benchmarks.compare model_store/rooms.mar build/two/rooms.mar --pairs 40

Two result folders of benchmarks.run: the slices of each figure are compared pair by pair. Both runs need the same
scenario and should be of the same machine at about the same time: what the machine did between them is in the ratio,
so the tolerance is wide.

Two .mar: both are served at once and take turns under load, A B, B A, A B, … (benchmarks/turns.py), which cancels that.
That the masks differ is told, as it may be meant. `python -m benchmarks.slowed` makes a .mar to try this with.

A figure is "worse" if its whole interval is worse by more than the tolerance; all intervals hold together with
--confidence. How they are made, and from what literature: benchmarks/ratio.py. Exit code 1: a figure is worse.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import host, mar_settings, ratio, result_folder, turns
from benchmarks.mar_server import serving
from benchmarks.photos import assorted_photos, photos_of
from benchmarks.ratio import Better, Ratio
from benchmarks.served import SEED
from export.package import check_package
from segserve.cli import run
from segserve.errors import UsageError

TOLERANCE_TURNS, TOLERANCE_FOLDERS = 0.03, 0.10
"""Less than 3 % is not worth a failed build; what the machine does between two runs is easily 10 %."""


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
    """A figure of A and of B and what became of it; `ratio` is None where `verdict` is "not compared"."""

    figure: str
    unit: str
    better: Better
    a: float
    b: float
    ratio: Ratio | None
    verdict: str


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
    }  # fmt: skip
    print(json.dumps(report, indent=2) if config.as_json else _words(report, rows))
    return 1 if report["worse"] else 0


def folders(config: CompareConfig, tolerance: float) -> tuple[list[Row], list[str]]:
    """The figures that both folders have. Raises: UsageError where they can't be compared at all."""
    a, b = result_folder.read(config.a), result_folder.read(config.b)
    if a["scenario"] != b["scenario"]:
        raise UsageError(
            f"{config.a} is of the scenario {a['scenario']}, {config.b} of {b['scenario']}: expected the same"
        )
    of_a, of_b = a["figures"], b["figures"]
    common = [name for name in of_a if name in of_b]
    if not common:
        raise UsageError(f"{config.a} and {config.b} have no figure in common")
    notes = [
        f"{key}: {a.get(key)} against {b.get(key)}"
        for key in ("cpu", "cores", "gpu")
        if a.get(key) != b.get(key)
    ]
    notes += [f"only in one of the two: {name}" for name in sorted(of_a.keys() ^ of_b.keys())]
    kinds = {name: (of_a[name]["unit"], of_a[name]["better"]) for name in common}
    samples = {name: (of_a[name]["samples"], of_b[name]["samples"]) for name in common}
    values = {name: (of_a[name]["value"], of_b[name]["value"]) for name in common}
    return judged(kinds, samples, values, config.confidence, tolerance, independent=False), notes


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
    values = {name: (turns.mean(a), turns.mean(b)) for name, (a, b) in samples.items()}
    return judged(turns.FIGURES, samples, values, config.confidence, tolerance, independent=True), notes


def judged(
    kinds: Mapping[str, tuple[str, Better]],
    samples: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    values: Mapping[str, tuple[float, float]],
    confidence: float,
    tolerance: float,
    independent: bool,
) -> list[Row]:
    """A row for each figure; the intervals of all of them hold together with `confidence`."""
    each = ratio.each_confidence(confidence, len(kinds))
    rows = []
    for name, (unit, better) in kinds.items():
        found = ratio.compared(*samples[name], each, independent)
        said = "not compared" if found is None else ratio.verdict(found, better, tolerance)
        rows.append(Row(name, unit, better, *values[name], found, said))
    return rows


def _words(report: Mapping[str, Any], rows: Sequence[Row]) -> str:
    table = [
        {
            "figure": f"{row.figure} ({row.unit})", "A": row.a, "B": row.b,
            "B/A": None if row.ratio is None else f"{row.ratio.ratio:.3f}",
            "interval": None if row.ratio is None else f"{row.ratio.low:.3f} to {row.ratio.high:.3f}",
            "better is": row.better, "B is": f"**{row.verdict}**" if row.verdict == "worse" else row.verdict,
        }
        for row in rows
    ]  # fmt: skip
    worse = ", ".join(report["worse"])
    return "\n".join([
        f"A: {report['a']}", f"B: {report['b']}", f"{host.headline(report)}", *report["notes"], "",
        host.markdown(table), "",
        "B/A is of pairs of turns or slices. All intervals hold together with "
        f"{report['confidence']:.0%}; tolerance {report['tolerance']:.0%}.",
        f"Worse beyond doubt: {worse}." if worse else "Nothing is worse beyond doubt.",
    ])  # fmt: skip


if __name__ == "__main__":
    run(CompareConfig, main)
