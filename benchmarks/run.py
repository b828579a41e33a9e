"""Load tests that answer a question each, with a report to look at: capacity, latency, per-gpu, soak, spike, swap.

    python -m benchmarks.run latency --out runs/latency                             # serves model_store/rooms.mar
    python -m benchmarks.run capacity --out runs/capacity --slo benchmarks/slo.toml
    python -m benchmarks.run swap --out runs/swap --new build/two/rooms.mar
    python -m benchmarks.run latency --out runs/theirs --server http://HOST:8080 --model rooms
    python -m benchmarks.run per-gpu --out runs/gpus --others build/trt/rooms.mar

Starts a server of its own on free ports (or loads yours, --server), lets Locust (benchmarks/locustfile.py) send photos
and judge every mask, and writes a folder: report.html to look at, table.md, result.json for `benchmarks.compare`, and
what they rest on: answers.jsonl, samples.jsonl, events.jsonl. Closed load waits for an answer before it sends the next
request, open load (capacity) sends when a request is due; latency counts from then.

Exit code 1: an objective of --slo was missed, a mask was wrong, a request was lost, or the client was the bottleneck;
the line says which. Two load more than a server can take, on purpose: capacity goes by its objectives alone (one that
says nothing of failures allows none), and spike forgives the 503 of a full server until it is calm again, which it must
be in the end.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import charts, host, report_html, scenario_spike, scenarios
from benchmarks.figures import failures_of
from benchmarks.run_options import Capacity, Common, Latency, PerGpu, Soak, Spike, Swap
from benchmarks.scenario_sweeps import capacity, per_gpu
from benchmarks.scenarios import Found
from benchmarks.session import Session, session
from segserve.cli import run
from segserve.package import check_package

SCHEMA = 1

Options = (
    Annotated[Capacity, tyro.conf.subcommand("capacity")]
    | Annotated[Latency, tyro.conf.subcommand("latency")]
    | Annotated[PerGpu, tyro.conf.subcommand("per-gpu")]
    | Annotated[Soak, tyro.conf.subcommand("soak")]
    | Annotated[Spike, tyro.conf.subcommand("spike")]
    | Annotated[Swap, tyro.conf.subcommand("swap")]
)


def main(options: Common) -> int:
    """Exit code as above."""
    scenarios.objectives_of(options)  # a file that is wrong is found out before anything starts
    scenario, found, sessions = _measured(options)
    result = result_of(scenario, found, sessions)
    write(options.out, result, found)
    print(host.json_of(result) if options.json else markdown(result))
    if not options.json:
        print(f"\n{options.out / 'report.html'}")
    for line in result["failures"]:
        print(f"error: {line}", file=sys.stderr)
    return 1 if result["failures"] else 0


def _measured(options: Common) -> tuple[str, Found, Sequence[Session]]:
    if isinstance(options, PerGpu):
        return ("per-gpu", *per_gpu(options))
    packages: tuple[Path, ...] = ()
    if isinstance(options, Swap):
        packages = (options.new,)
        if options.server is None:
            scenarios.require_other_version(
                check_package(options.mar).version, check_package(options.new).version
            )
    with session(options, packages=packages) as running:
        name, found = _scenario(options, running)
    found.charts += charts.gpus(running.sampler.samples)
    return name, found, [running]


def _scenario(options: Common, running: Session) -> tuple[str, Found]:
    match options:
        case Capacity():
            return "capacity", capacity(options, running)
        case Latency():
            return "latency", scenarios.latency(options, running)
        case Soak():
            return "soak", scenarios.soak(options, running)
        case Spike():
            return "spike", scenario_spike.spike(options, running)
        case Swap():
            return "swap", scenarios.swap(options, running)
    raise AssertionError(options)


def result_of(scenario: str, found: Found, sessions: Sequence[Session]) -> dict[str, Any]:
    """What result.json holds; `failures` are the reasons for exit code 1."""
    phases = [phase for one in sessions for phase in one.phases]
    failed = failures_of(row for phase in phases for row in phase.rows if not found.excused(row))
    outside = failures_of(row for phase in phases for row in phase.outside if not found.excused(row))
    failed += [f"in a warm-up or after an end: {line}" for line in outside]  # which the tables don't count
    busy = [f"{phase.label}: {line}" for phase in phases for line in phase.bottlenecks]
    return {
        "schema": SCHEMA,
        "scenario": scenario,
        **host.describe(),
        "figures": found.figures,
        "slo": {"held": not found.missed, "missed": found.missed},
        "failures": list(dict.fromkeys([*found.missed, *found.failed, *failed, *busy])),
        "missing": list(dict.fromkeys(line for one in sessions for line in one.sampler.missing)),
        "tables": found.tables,
    }


def write(folder: Path, result: Mapping[str, Any], found: Found) -> None:
    """result.json, table.md, report.html."""
    (folder / "result.json").write_text(host.json_of(result, indent=2) + "\n")
    (folder / "table.md").write_text(markdown(result) + "\n", encoding="utf-8")
    page = report_html.page(result, found.charts, found.highlights)
    (folder / "report.html").write_text(page, encoding="utf-8")


def markdown(result: Mapping[str, Any]) -> str:
    """Tables with where they come from."""
    parts = [f"## {result['scenario']}", host.headline(result), f"`{result['command']}`"]
    for title, rows in result["tables"].items():
        parts += [f"### {title}", host.markdown(rows)]
    parts += [f"- failed: {line}" for line in result["failures"]]
    parts += [f"- not measured: {line}" for line in result["missing"]]
    return "\n\n".join(parts)


if __name__ == "__main__":
    run(Options, main)  # type: ignore[arg-type]
