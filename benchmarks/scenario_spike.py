"""The scenario `spike` of `benchmarks.run`: calm, many at once, calm again. How bad does it get, and for how long?"""

from __future__ import annotations

import math
from collections.abc import Callable

from benchmarks import charts
from benchmarks.answers import Answered, no_room, percentiles_ms
from benchmarks.figures import figure, figures_of
from benchmarks.run_options import Spike
from benchmarks.scenarios import Found, missed, part_row
from benchmarks.session import Phase, Session

CALM_AGAIN = 1.5
"""A spike is over when the median of a second is below so many times the calm one."""


def spike(options: Spike, session: Session) -> Found:
    """Locust's shape of that name (benchmarks/shapes.py); its clients wait for answers, so they come all at once."""
    phase = _load(options, session)
    begin = phase.first_due + options.calm_s
    end = begin + options.spike_s
    parts = {
        "before": [row for row in phase.rows if row.done < begin],
        "spike": [row for row in phase.rows if row.done >= begin and row.due <= end],
        "after": [row for row in phase.rows if row.due > end],
    }
    found = Found(figures_of(phase), missed=missed(options, phase))
    for name, part in parts.items():
        found.figures[f"p99 {name}"] = figure(percentiles_ms(part, (99,))["p99"], "ms", "lower")
    calm_s = recovery_s(parts["before"], parts["after"], end)
    found.figures["calm again after"] = figure(calm_s, "s", "lower")
    found.failed += not_recovered(parts["before"], calm_s)
    found.excused = refused_between(begin, end if math.isnan(calm_s) else end + calm_s + 1)
    found.highlights = ["calm again after", "p99 before", "p99 spike", "p99 after", "failures"]
    found.tables["Before, during, after"] = [part_row(name, part) for name, part in parts.items()]
    marks = [("spike begins", begin), ("ends", end)]
    found.charts = charts.over_time(phase, session.sampler.samples, marks)
    return found


def _load(options: Spike, session: Session) -> Phase:
    total_s = 2 * options.calm_s + options.spike_s
    return session.load(
        "calm, spike, calm", users=options.calm_users, seconds=total_s - options.warm_s - 1,
        file="locustfile.py,benchmarks/shapes.py",
        arguments=("--shape", "spike", "--calm-users", str(options.calm_users), "--spike-users",
                   str(options.spike_users), "--calm-s", str(options.calm_s), "--spike-s", str(options.spike_s)),
    )  # fmt: skip


def refused_between(begin: float, end: float) -> Callable[[Answered], bool]:
    """The 503 of a full server, after which clients come again, to who was on the way meanwhile.

    Before a spike and when it is over there is room: there it is a lost request, as any other answer is at any time.
    """
    return lambda row: no_room(row.status, row.wrong or "") and row.done >= begin and row.due < end


def recovery_s(before: list[Answered], after: list[Answered], end: float) -> float:
    """Seconds from the end of a spike until the median of a second is near that before it; NaN if it never is."""
    calm_ms = percentiles_ms(before, (50,))["p50"]
    by_second: dict[int, list[Answered]] = {}
    for row in after:
        by_second.setdefault(int(row.due - end), []).append(row)
    for second in sorted(by_second):
        if percentiles_ms(by_second[second], (50,))["p50"] <= CALM_AGAIN * calm_ms:
            return float(second)
    return math.nan


def not_recovered(before: list[Answered], calm_s: float) -> list[str]:
    """A sentence where the spike has shown no recovery."""
    if not math.isnan(calm_s):
        return []
    calm_ms = percentiles_ms(before, (50,))["p50"]
    if math.isnan(calm_ms):
        return [
            "no right mask came before the spike, so there is no calm to come back to; --calm-s is too short"
        ]
    return [
        f"it never was calm again: no second after the spike had a median of at most {CALM_AGAIN:g} times the "
        f"{calm_ms:.0f} ms before it"
    ]
