"""Scenarios of `benchmarks.run` that try many loads: capacity, per-gpu."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import charts, mar_settings, slo
from benchmarks.answers import Answered, mean_batch, percentiles_ms
from benchmarks.capacity import Knee, Trial, knee, margin
from benchmarks.figures import Figure, completed_per_s, figure, phase_row
from benchmarks.report_charts import Chart, Series, lines
from benchmarks.run_options import Capacity, PerGpu
from benchmarks.sampling import power_w
from benchmarks.scenarios import Found, missed, objectives_of
from benchmarks.session import Phase, Session, session

PROBE_USERS = 16
LOWEST = 0.3
HIGHEST = 1.15
"""Of what a closed load of PROBE_USERS gets out of the server: between these the knee is looked for."""
RAISES, RAISE = 4, 1.3
"""How often and by how much that range is raised, if its upper end holds."""
AROUND = (0.97, 1.03, 0.94, 1.06)
"""Of the bracket's middle: where the trials after the bisection are, again and again."""


def capacity(options: Capacity, session: Session) -> Found:
    """Bisection over the rate, then trials around where it ended; the number comes from all of them."""
    objectives, trials = slo.strict(objectives_of(options)), list[Trial]()
    full = session.load(
        f"{PROBE_USERS} clients: how much it can do", users=PROBE_USERS, seconds=options.trial_s / 2
    )
    most_per_s = max(completed_per_s(full), 1 / options.trial_s)
    phases = [full]

    def held(rate_per_s: float) -> bool:
        phase = session.load(
            f"{rate_per_s:.2f} requests a second", rate_per_s=rate_per_s, seconds=options.trial_s,
            arguments=("--arrivals", options.arrivals),
        )  # fmt: skip
        phases.append(phase)
        trials.append(Trial(rate_per_s, phase.rows, phase.seconds))
        return not slo.missed(objectives, phase.rows, phase.seconds)

    low, high = LOWEST * most_per_s, HIGHEST * most_per_s
    for _ in range(RAISES):  # what a closed load gets out of a server is not always the most
        if not held(high):
            break
        low, high = high, RAISE * high
    for _ in range(options.bisections):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) else (low, middle)
    for factor in itertools.islice(itertools.cycle(AROUND), options.repeats):
        held(factor * (low + high) / 2)
    return _capacity_found(options, session, phases, trials, objectives)


def _capacity_found(
    options: Capacity, session: Session, phases: Sequence[Phase], trials: Sequence[Trial],
    objectives: Sequence[slo.Objective],
) -> Found:  # fmt: skip
    found_knee = knee(trials, objectives)
    found = Found({"capacity": figure(found_knee.rate_per_s, "/s", "higher"),
                   "capacity, low": figure(found_knee.low, "/s", "higher"),
                   "capacity, high": figure(found_knee.high, "/s", "higher"),
                   "closed load": figure(completed_per_s(phases[0]), "/s", "higher")})  # fmt: skip
    found.highlights = ["capacity", "capacity, low", "capacity, high", "closed load"]
    margins = [margin(objectives, trial.rows) for trial in trials]
    # the trials load too much on purpose: what is lost in them counts in the objectives that it fits, if any
    found.excused = lambda row: (
        row.status != 200 and row.due >= phases[0].ended and any(one.fits(row) for one in objectives)
    )
    if found_knee.rate_per_s <= 0:
        found.missed += _missed_at_the_lowest(trials, objectives)
    found.tables["Capacity"] = [
        {"requests/s": found_knee.rate_per_s, "from": found_knee.low, "to": found_knee.high,
         "higher rates": "missed" if max(margins) > 1 else "not tried: it is at least this",
         "arrivals": options.arrivals, "objectives": str(options.slo)}
    ]  # fmt: skip
    found.tables["Trials, in their order"] = [
        {"rate /s": trial.rate_per_s, "of its limit": closest, "held": "yes" if closest <= 1 else "no",
         **{key: value for key, value in phase_row(phase).items() if key != "load"}}
        for trial, closest, phase in zip(trials, margins, phases[1:], strict=True)
    ]  # fmt: skip
    found.charts = [
        *knee_charts(trials, margins, found_knee, objectives),
        charts.cores(session.sampler.samples, []),
    ]
    return found


def _missed_at_the_lowest(trials: Sequence[Trial], objectives: Sequence[slo.Objective]) -> list[str]:
    trial = min(trials, key=lambda trial: trial.rate_per_s)
    sentences = slo.missed(objectives, trial.rows, trial.seconds)
    return [f"at the lowest rate that was tried: {line}" for line in sentences]


def knee_charts(
    trials: Sequence[Trial], margins: Sequence[float], found: Knee, objectives: Sequence[slo.Objective]
) -> list[str]:
    """Share of the limit, and percentiles, over the rate."""
    order = sorted(range(len(trials)), key=lambda n: trials[n].rate_per_s)
    marks = [("capacity", found.rate_per_s)]
    used = [(trials[n].rate_per_s, margins[n]) for n in order]
    latencies = [
        Series(
            f"p{p}", [(trials[n].rate_per_s, percentiles_ms(trials[n].rows, (p,))[f"p{p}"]) for n in order], c
        )
        for c, p in enumerate((50, 95, 99))
    ]
    return [
        lines(Chart("Latency over rate", "requests a second (open load)", "ms"), latencies,
              charts.limits_of(objectives), marks),
        lines(Chart("The closest limit, times", "requests a second (open load)", "times"),
              [Series("got over allowed", used, 3)], [("limit", 1.0)], marks),
    ]  # fmt: skip


def per_gpu(options: PerGpu) -> tuple[Found, list[Session]]:
    """A server for each package and batch size, loads on each. Answers say which device and engine made them."""
    found, rows, sessions = Found(), list[dict[str, Any]](), list[Session]()
    packages = names_of((options.mar, *options.others))
    for (mar, package), batch_size in itertools.product(packages.items(), options.batch_sizes):
        with tempfile.TemporaryDirectory(prefix="per-gpu-") as work:
            changed = Path(work) / mar.name
            settings = dataclasses.replace(mar_settings.read(mar), batch_size=batch_size)
            mar_settings.write(mar, changed, settings)
            with session(options, changed) as running:
                sessions.append(running)
                for clients in sorted(options.concurrency):
                    label = f"{package or mar.name}, batches up to {batch_size}, {clients} clients"
                    phase = running.load(label, users=clients, seconds=options.level_s)
                    found.missed += missed(options, phase, f"{label}: ")
                    for made in device_rows(phase, batch_size, running.sampler.samples, package):
                        rows.append(made)
                        found.figures.update(device_figures(made))
    found.tables["Images a second and p99 per GPU"] = best_rows(rows)
    found.tables["All combinations"] = rows
    found.charts = [devices_chart(rows), *(one for s in sessions for one in charts.gpus(s.sampler.samples))]
    found.highlights = [f"{device_name(row)}: images/s" for row in best_rows(rows)]
    return found, sessions


def names_of(packages: Sequence[Path]) -> dict[Path, str]:
    """What to call each: its file, or the whole path where files have the same name. A lone one needs no name.

    So runs of one package can be compared, whatever its file is called.
    """
    files = [path.name for path in packages]
    if len(files) == 1:
        return {packages[0]: ""}
    return {path: path.name if files.count(path.name) == 1 else str(path) for path in packages}


def device_rows(
    phase: Phase, batch_size: int, samples: Sequence[dict[str, Any]], package: str = ""
) -> list[dict[str, Any]]:
    """A line for each device and engine that answered. package: its name, if there are several."""
    by_device: dict[tuple[str, str], list[Answered]] = {}
    for row in phase.rows:
        if row.good:
            by_device.setdefault((str(row.device), str(row.engine)), []).append(row)
    made = []
    for (device, engine), answered in sorted(by_device.items()):
        mine = [
            row
            for row in phase.completed
            if row.good and (str(row.device), str(row.engine)) == (device, engine)
        ]
        images_per_s = len(mine) / phase.seconds
        kind, _, number = device.partition(":")
        on_gpu = kind == "cuda" and number.isdigit()
        watts = power_w(samples, int(number), phase.began, phase.ended) if on_gpu else None
        made.append({
            **({"package": package} if package else {}),
            "device": device, "engine": engine, "batch up to": batch_size, "clients": phase.users,
            "images/s": images_per_s, **{f"{k} ms": ms for k, ms in percentiles_ms(answered).items()},
            "mean batch": mean_batch(row.batch_size for row in answered if row.batch_size), "power W": watts,
            "images/joule": images_per_s / watts if watts else None,
        })  # fmt: skip
    return made


def best_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each package, device and engine the combination with most images a second."""
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = made_by(row)
        if key not in best or row["images/s"] > best[key]["images/s"]:
            best[key] = row
    return [best[key] for key in sorted(best)]


def made_by(row: dict[str, Any]) -> tuple[str, ...]:
    """Package, if there are several, device and engine: two packages may well have the same engine."""
    return tuple(row[key] for key in ("package", "device", "engine") if key in row)


def device_name(row: dict[str, Any]) -> str:
    """As figures name a combination."""
    return f"{' '.join(made_by(row))} batch {row['batch up to']} clients {row['clients']}"


def device_figures(row: dict[str, Any]) -> dict[str, Figure]:
    """Throughput and tail of one combination."""
    name = device_name(row)
    return {f"{name}: images/s": figure(row["images/s"], "/s", "higher"),
            f"{name}: p99": figure(row["p99 ms"], "ms", "lower")}  # fmt: skip


def devices_chart(rows: Sequence[dict[str, Any]]) -> str:
    """Images a second over clients, a line for each package, device, engine and batch size."""
    names = [f"{' '.join(made_by(row))} batch {row['batch up to']}" for row in rows]
    series = [
        Series(name, [(float(r["clients"]), r["images/s"]) for r, of in zip(rows, names, strict=True) if of == name],
               number)
        for number, name in enumerate(dict.fromkeys(names))
    ]  # fmt: skip
    return lines(Chart("Images a second", "clients (closed load)", "/s", spread=True), series)
