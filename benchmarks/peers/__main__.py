"""The same weights and photos through other servers and ours, one after another on this machine.

    make bench-peers                                      # makes the peers' environment, then the demo model
    python -m benchmarks.peers model_store/rooms.mar --build build/rooms
    python -m benchmarks.peers build/x/x.mar --build build/x --settings litserve=2x1x4 ray=1x2x4

TorchServe runs TorchScript with a handler in the style of its own image_segmenter (full-resolution logits, argmax,
JSON); LitServe, Ray Serve and BentoML run ONNX Runtime, torch's upsampling and argmax, and Pillow's PNG, in batches.
Each gets the fastest of a few settings (workers x threads x batch) and the number of clients that suits it best; ours
runs as it was packaged. Every server's masks are compared with the fp32 model's labels.

Writes peers.json, peers.md and a bar chart. Exit code 1 if a server did not answer or its masks are not right.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import host
from benchmarks.peers import chart, content, report
from benchmarks.peers.catalogue import OURS, PEERS, Model, Peer, Settings
from benchmarks.peers.measure import Plan, Result, candidates, measure, sweep
from benchmarks.photos import mixed_photos
from segserve import cpu
from segserve.cli import run
from segserve.errors import SegserveError, UsageError
from segserve.spec import SPEC_FILE, ModelSpec
from segserve.thresholds import THRESHOLDS

FP32_AGREEMENT = 0.999
"""What the worst mask must reach, of servers that compute in fp32; at a lower precision, what export's parity asks."""


@dataclass(frozen=True)
class Config:
    """Options of the command."""

    mar: tyro.conf.Positional[Path]
    """What we serve."""
    build: Path
    """Folder that export.build wrote from the same checkpoint, with model.onnx and model.pt for the peers."""
    out: Path = Path("out/peers")
    """Folder for the report."""
    chart: Path | None = None
    """The bar chart, a .png (default: OUT/peers.png)."""
    python: Path = Path(".venv-peers/bin/python")
    """Python of the peers' environment."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Who takes part."""
    settings: tuple[str, ...] = ()
    """NAME=WORKERSxTHREADSxBATCH of peers whose settings are known: saves their sweep."""
    concurrency: tuple[int, ...] = (4, 16, 64)
    """Numbers of clients, tried in turn as long as more of them help."""
    duration_s: float = 10.0
    """Of each measurement; half of it in the sweep. Slow servers take longer, until each worker had a full batch."""
    minutes: float = 14.0
    """For everything, about: with slow models fewer settings and numbers of clients are tried, the best guess first."""
    seed: int = 100
    """Of the rendered photos."""
    min_agreement: float | None = None
    """Share of labels that must be right, for all servers (default: by the precision of ours). Weights that were not
    trained give masks where nothing is certain: allow for that."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of the table."""

    def __post_init__(self) -> None:
        for path in (self.mar, self.build / SPEC_FILE, self.build / "model.onnx", self.build / "model.pt"):
            if not path.is_file():
                raise UsageError(f"{path} is not there; python -m export.build CHECKPOINT --out DIR makes it")
        if not self.python.is_file() and set(self.peers) - {"torchserve"}:
            raise UsageError(
                f"--python {self.python}: no such file; `make bench-peers` makes that environment"
            )
        if unknown := set(self.peers) - set(PEERS):
            raise UsageError(f"--peers {', '.join(sorted(unknown))}: expected some of {', '.join(PEERS)}")
        if not self.concurrency or min(*self.concurrency, self.duration_s, self.minutes) <= 0:
            raise UsageError("--concurrency, --duration-s and --minutes: expected numbers above 0")
        if self.chart is not None and self.chart.suffix != ".png":
            raise UsageError(f"--chart {self.chart}: expected a .png")
        self.known_settings()

    def known_settings(self) -> dict[str, Settings]:
        """--settings by name of the peer. Raises: UsageError."""
        known = {}
        for text in self.settings:
            name, _, value = text.partition("=")
            try:
                known[name] = Settings.parse(value)
            except ValueError as error:
                raise UsageError(f"--settings {text}: {error}") from None
            if name not in PEERS:
                raise UsageError(f"--settings {text}: expected one of {', '.join(PEERS)} before the =")
        return known


def main(config: Config) -> int:
    """Exit code: 0, or 1 where a server failed or answered wrongly."""
    end_s = time.monotonic() + 60 * config.minutes
    precision = packaged_precision(config.mar)
    model = Model(config.build.resolve(), ModelSpec.load(config.build / SPEC_FILE), config.mar.resolve())
    photos = list(mixed_photos(config.seed))
    say("the labels that are right")
    onnx = model.folder / "model.onnx"
    right = content.right_labels(model.spec, onnx, photos, content.usual_input(model.spec))
    our_right = content.right_labels(model.spec, onnx, photos, content.our_input(model.spec))
    plan = Plan(photos, right, config.concurrency, config.duration_s, config.python.absolute(), say)
    our_plan = dataclasses.replace(plan, right=our_right)
    cores = cpu.cores()
    ours = measure(OURS, model, our_plan, Settings(1, cores, 8), share_s(end_s, 1 + len(config.peers)))
    results, failures = [], {}
    if wrong := judge(ours, config.min_agreement or least_agreement(precision)):
        failures["ours"] = wrong
    for number, name in enumerate(config.peers):
        until_s = share_s(end_s, len(config.peers) - number)
        try:
            result = best_of(PEERS[name], model, plan, config.known_settings().get(name), until_s)
        except SegserveError as error:
            failures[name] = str(error)
            say(f"{name} failed: {error}")
            continue
        results.append(result)
        if wrong := judge(result, config.min_agreement or FP32_AGREEMENT):
            failures[name] = wrong
    document = report.document(ours, results, failures, plan, model)
    document["our_precision"] = precision
    document["our_decoder_agreement"] = min(map(content.agreement, our_right, right))
    show(config, document)
    return 1 if failures else 0


def share_s(end_s: float, left: int) -> float:
    """Until when the next of those that are left may take, if all get the same."""
    now_s = time.monotonic()
    return now_s + (end_s - now_s) / left


def best_of(peer: Peer, model: Model, plan: Plan, known: Settings | None, until_s: float) -> Result:
    """The peer at its best settings; the sweep gets two thirds of the time. Raises: ServerError, CheckFailed."""
    if known is not None:
        return measure(peer, model, plan, known, until_s)
    now_s = time.monotonic()
    tried = candidates(cpu.cores())
    best, load, found = sweep(peer, model, plan, tried, now_s + (until_s - now_s) * 2 / 3)
    result = measure(peer, model, plan, best, until_s)
    result.sweep = found
    result.loads.append(load)  # another number of clients, and perhaps the best
    return result


def packaged_precision(mar: Path) -> str:
    """Of the artefact that a .mar serves, the first one of its spec. Raises: UsageError."""
    try:
        with zipfile.ZipFile(mar) as archive:
            return str(json.loads(archive.read(SPEC_FILE))["artefacts"][0]["precision"])
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{mar} is no package of export.build: {error}") from None


def least_agreement(precision: str) -> float:
    """Of each mask with the fp32 model's, for a package of that precision."""
    return FP32_AGREEMENT if THRESHOLDS[precision].exact else THRESHOLDS[precision].least_agreement


def judge(result: Result, least: float) -> str:
    """What is wrong with a server's masks; empty if nothing is."""
    if result.lowest_agreement >= least:
        return ""
    return (
        f"a mask agrees with the fp32 model in {100 * result.lowest_agreement:.3f} % of the pixels, "
        f"expected {100 * least:.1f} %"
    )


def show(config: Config, document: dict[str, Any]) -> None:
    """Write the report and print it."""
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "peers.json").write_text(host.json_of(document, indent=2) + "\n")
    table = report.markdown(document)
    (config.out / "peers.md").write_text(table + "\n")
    bars = [
        (
            row["server"],
            row["images/s"],
            f"ours is {row['ours / peer']:.3g} x faster" if row["ours / peer"] else "",
        )
        for row in document["rows"]
    ]
    model, cores = document["model"], document["cores"]
    title = (
        f"Images per second: {model['preset']} {model['input']}, {model['classes']} classes, {cores} cores"
    )
    chart.draw(bars, title, config.chart or config.out / "peers.png")
    print(host.json_of(document) if config.as_json else table)


def say(text: str) -> None:
    """Progress, so that what is printed can be piped."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(Config, main)
