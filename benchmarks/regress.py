"""Is serving still as close to its engine as the repository says? Exit code 1 with the figures that got worse.

    python -m benchmarks.regress model_store/rooms.mar
    python -m benchmarks.regress model_store/rooms.mar --update

benchmarks/ratios.toml keeps ratios, not milliseconds: what is served over what the engine alone does in the same
seconds on the same machine, so that another machine, or the same one on a slow day, gives nearly the same. Turns of
load (benchmarks/turns.py) and of the engine alone alternate; a ratio is worse if its whole interval
(benchmarks/ratio.py) is worse than the kept value by more than its tolerance.

Keep values of a quiet machine: beside another load on all cores the steps over the engine's fell to less than half,
as the engine's threads wait for one another, and decoding has but one.

What these ratios can't show is a slower engine, as it slows both sides: for that, `python -m benchmarks.compare` an
older .mar. A faster engine makes decoding and masks look worse beside it. Whoever changed something on purpose writes
the new values with --update, and the file's difference is reviewed like any other.
"""

from __future__ import annotations

import json
import math
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import track

from benchmarks import host, mar_settings, ratio, turns
from benchmarks.mar_server import MarServer, serving
from benchmarks.offline import Offline
from benchmarks.photos import Photo, assorted_photos
from benchmarks.ratio import Better, By, Measured, Ratio
from benchmarks.served import BATCH_SIZES, SEED, engine_alone
from segserve.cli import command, run
from segserve.errors import UsageError
from segserve.package import check_package

KEPT = Path(__file__).with_name("ratios.toml")
ALONE_S = 0.7
FIGURES: dict[str, tuple[str, Better, float]] = {
    "served_over_engine": (
        "images/s of 8 clients over the engine's alone, its fastest batch",
        "higher",
        0.08,
    ),
    "one_client_over_engine": ("p50 of one client over the engine's time for an image", "lower", 0.08),
    "loaded_p95_over_engine": ("p95 of 8 clients over the engine's time for an image", "lower", 0.15),
    "decode_over_engine": ("decoding over the engine's step, one client", "lower", 0.15),
    "mask_and_encode_over_engine": ("mask and PNG over the engine's step, one client", "lower", 0.15),
}
"""What is kept: its meaning, which way is better, and the tolerance that a new file begins with."""
CLIENTS = 8
WITHOUT_RATIO: dict[By, str] = {
    "differences": "by the whole interval of their difference",
    "values": "by their mean alone",
    "gaps": "as nothing was measured in too many turns",
}
"""How a figure is worse that is no positive number in each turn."""


@dataclass(frozen=True)
class RegressConfig:
    """What is measured against what."""

    mar: tyro.conf.Positional[Path]
    """The .mar to serve."""
    ratios: Path = KEPT
    """The file of ratios."""
    turns: int = 14
    """Turns of load, about 4 s each with the demo model on two cores."""
    confidence: float = 0.99
    """With which all intervals hold together."""
    update: bool = False
    """Write what was measured to the file; tolerances stay."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""

    def __post_init__(self) -> None:
        mar_settings.require_files(self.mar, None)
        if self.turns < 2 * ratio.MIN_PAIRS or not 0 < self.confidence < 1:
            raise UsageError(f"--turns: at least {2 * ratio.MIN_PAIRS}; --confidence: between 0 and 1")
        if not self.update and not self.ratios.is_file():
            raise UsageError(
                f"{self.ratios}: no such file; write it: {command('benchmarks.regress', self.mar, '--update')}"
            )


@dataclass(frozen=True)
class Kept:
    """A ratio as the file has it."""

    value: float
    better: Better
    tolerance: float


def main(config: RegressConfig) -> int:
    """Measure, then judge or write. Exit code as above."""
    kept_at, kept = ("", {}) if config.update and not config.ratios.is_file() else read(config.ratios)
    samples = measure(config)
    if config.update:
        write(config.ratios, samples, kept)
        print(f"{config.ratios} has the ratios of this run now")
        return 0
    rows = judged(kept, samples, config.confidence)
    report = {
        **host.describe(), "kept_at": kept_at, "confidence": config.confidence, "figures": rows,
        "worse": [row["figure"] for row in rows if row["verdict"] == "worse"],
    }  # fmt: skip
    print(host.json_of(report, indent=2) if config.as_json else _words(report))
    return 1 if report["worse"] else 0


def measure(config: RegressConfig) -> dict[str, list[float]]:
    """A value of each of `FIGURES` for each turn. Raises: CheckFailed if a request fails, ServerError."""
    check_package(config.mar)
    settings, photos = mar_settings.read(config.mar), list(assorted_photos(SEED))
    samples: dict[str, list[float]] = {name: [] for name in FIGURES}
    with (
        tempfile.TemporaryDirectory(prefix="regress-") as work,
        engine_alone(config.mar, settings, Path(work, "alone")) as (alone, one),
        serving(config.mar, settings, Path(work, "server")) as server,
    ):
        turns.warm_up(server, photos, CLIENTS)
        speeds = {size: alone.images_per_s(size, ALONE_S) for size in BATCH_SIZES}
        best = max(speeds, key=lambda size: speeds[size])
        for _ in track(range(config.turns), "turns", console=Console(stderr=True), transient=True):
            for name, value in _turn(server, alone, one, photos, best).items():
                samples[name].append(value)
    return samples


def _turn(
    server: MarServer, alone: Offline, one: Offline, photos: Sequence[Photo], best: int
) -> dict[str, float]:
    """The engine before and after the load, so that their mean is of the same moment as the load."""
    orders = ((one, 1), (alone, best))
    before = [engine.images_per_s(size, ALONE_S / 2) for engine, size in orders]
    served = turns.turn(server, photos, CLIENTS)
    after = [engine.images_per_s(size, ALONE_S / 2) for engine, size in orders]
    single, batched = ((x + y) / 2 for x, y in zip(before, after, strict=True))
    alone_ms = 1000 / single
    return {
        "served_over_engine": served["images/s"] / batched,
        "one_client_over_engine": served["p50, one client"] / alone_ms,
        "loaded_p95_over_engine": served["p95, loaded"] / alone_ms,
        "decode_over_engine": served["decode"] / served["engine"],
        "mask_and_encode_over_engine": served["mask and encode"] / served["engine"],
    }


def judged(
    kept: Mapping[str, Kept], samples: Mapping[str, Sequence[float]], confidence: float
) -> list[dict[str, Any]]:
    """A row for each figure: kept, now, their ratio with its interval, verdict."""
    each = ratio.each_confidence(confidence, len(kept))
    rows = []
    for name, old in kept.items():
        values = samples[name]
        before, now = Measured(old.value, [old.value] * len(values)), Measured(turns.mean(values), values)
        found = ratio.judge(before, now, old.better, old.tolerance, each)
        rows.append({
            "figure": name, "meaning": FIGURES[name][0], **asdict(old), "now": now.value,
            "ratio": None if found.ratio is None else asdict(found.ratio), "verdict": found.verdict, "by": found.by,
        })  # fmt: skip
    return rows


def read(path: Path) -> tuple[str, dict[str, Kept]]:
    """Where it was measured, and the ratios. Raises: UsageError if the file is not as `write` leaves it."""
    try:
        text = tomllib.loads(path.read_text())
        if unknown := text["figures"].keys() ^ FIGURES.keys():
            raise UsageError(
                f"{path}: unknown or missing: {', '.join(sorted(unknown))}; remove it and write it with --update"
            )
        kept = {
            name: Kept(float(one["value"]), FIGURES[name][1], float(one["tolerance"]))
            for name, one in text["figures"].items()
        }
        for name, one in kept.items():
            if not (0 < one.value < math.inf and one.tolerance >= 0):
                raise ValueError(
                    f"{name}: {one.value} with tolerance {one.tolerance}, expected above 0 and from 0"
                )
        return str(text["measured"]), kept
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} is not as --update writes it: {error!r}; remove it and write it with --update"
        ) from None


def write(path: Path, samples: Mapping[str, Sequence[float]], kept: Mapping[str, Kept]) -> None:
    """The means of the turns, with the tolerances of `kept` where it has them."""
    described = host.describe()
    lines = [
        "# Serving over its engine, measured by `python -m benchmarks.regress`, which says what it is for.",
        "# value: geometric mean of the turns; tolerance: share by which a later run may be worse.",
        f"measured = {json.dumps(host.headline(described))}", "",
    ]  # fmt: skip
    for name, (meaning, better, tolerance) in FIGURES.items():
        tolerance = kept[name].tolerance if name in kept else tolerance
        lines += [
            f"[figures.{name}]  # {meaning}; better is {better}",
            f"value = {turns.mean(samples[name]):.4g}", f"tolerance = {tolerance:.4g}", "",
        ]  # fmt: skip
    path.write_text("\n".join(lines).rstrip() + "\n")


def _words(report: Mapping[str, Any]) -> str:
    table, worse = [], []
    for row in report["figures"]:
        found = None if row["ratio"] is None else Ratio(**row["ratio"])
        between = row["by"] if found is None else f"{found.low:.3f} to {found.high:.3f}"
        how = WITHOUT_RATIO[row["by"]] if found is None else f"{between} times as much"
        table.append({
            "figure": row["meaning"], "kept": row["value"], "now": row["now"],
            "now/kept": None if found is None else f"{found.ratio:.3f}", "interval": between,
            "tolerance": f"{row['tolerance']:.0%}", "better is": row["better"], "now is": row["verdict"],
        })  # fmt: skip
        if row["verdict"] == "worse":
            worse.append(
                f"worse: {row['meaning']}: {row['now']:.3g}, kept {row['value']:.3g}, {how} "
                f"(better is {row['better']}, tolerance {row['tolerance']:.0%})"
            )
    return "\n".join([
        host.headline(report), f"kept: {report['kept_at']}", "", host.markdown(table), "",
        f"All intervals hold together with {report['confidence']:.0%}.",
        *(worse or ["Nothing is worse beyond doubt."]),
    ])  # fmt: skip


if __name__ == "__main__":
    run(RegressConfig, main)
