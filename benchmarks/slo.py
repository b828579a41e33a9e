"""Service level objectives as a file: read it, and say in sentences which of them a load did not hold.

    objectives = read(Path("benchmarks/slo.toml"))
    for sentence in missed(objectives, answers.read(path), seconds=60.0): ...

benchmarks/slo.toml is the example and says what may stand in it. An objective that no answer fits is missed: a load
that never asked for it has shown nothing.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.answers import Answered, failure_share, goodput_per_s, percentiles_ms
from segserve.errors import UsageError
from segserve.request import CONTENT_TYPES

FILTERS = ("format", "version", "device")
LIMITS = ("p50_ms", "p95_ms", "p99_ms", "failures", "goodput_per_s")


@dataclass(frozen=True)
class Objective:
    """Limits for the answers of a format, version and device; None: any, or no limit."""

    name: str
    format: str | None = None
    version: str | None = None
    device: str | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    failures: float | None = None
    """Share of all answers, 0 to 1."""
    goodput_per_s: float | None = None

    def __post_init__(self) -> None:
        for field in ("name", *FILTERS):
            value = getattr(self, field)
            if value == "" or not isinstance(value, str | None) or (field == "name" and value is None):
                raise UsageError(f"{field} is {value!r}, expected text")
        if self.format is not None and self.format not in CONTENT_TYPES:
            raise UsageError(f"format is {self.format!r}, expected one of {', '.join(CONTENT_TYPES)}")
        limits = {field: getattr(self, field) for field in LIMITS if getattr(self, field) is not None}
        if not limits:
            raise UsageError(f"{self.name!r} limits nothing: give one of {', '.join(LIMITS)}")
        for field, value in limits.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise UsageError(f"{field} is {value!r}, expected a number from 0")
        if self.failures is not None and self.failures > 1:
            raise UsageError(f"failures is {self.failures!r}, expected a share from 0 to 1")

    def fits(self, row: Answered) -> bool:
        """Whether the answer counts here. One that never came has no version or device: it counts for all."""
        return (
            self.format in (None, row.format)
            and (self.version is None or row.version in (None, self.version))
            and (self.device is None or row.device in (None, self.device))
        )


def read(path: Path) -> tuple[Objective, ...]:
    """The objectives of a file. Raises: UsageError with what is wrong in it."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    tables = document.pop("objective", [])
    if document or not isinstance(tables, list) or not tables:
        raise UsageError(f"{path}: expected one or more [[objective]] and nothing else")
    found = tuple(_objective(path, number, fields) for number, fields in enumerate(tables, start=1))
    if len({objective.name for objective in found}) < len(found):
        raise UsageError(f"{path}: two objectives have the same name")
    return found


def strict(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """Where an objective says nothing of failures, none are allowed: who refuses nearly all answers the rest soon."""
    return tuple(dataclasses.replace(one, failures=one.failures or 0.0) for one in objectives)


def refuse_floors(objectives: Sequence[Objective]) -> None:
    """Raises: UsageError for a floor: too little load misses it too, so no highest rate is found by it."""
    if floors := [one.name for one in objectives if one.goodput_per_s is not None]:
        raise UsageError(
            f"goodput_per_s of {', '.join(map(repr, floors))}: capacity tries low rates too, which would miss it. Give "
            "a file without: what is found is itself the right masks a second that the other limits allow"
        )


def missed(
    objectives: Sequence[Objective], rows: Sequence[Answered], seconds: float,
    completed: Sequence[Answered] | None = None,
) -> list[str]:  # fmt: skip
    """A sentence for each limit that does not hold: which, got, expected.

    rows: answers that were due in the load. seconds: how long it took. completed: those that were complete in that
    time, where that are others: under too much load answers are due in it and come long after.
    """
    done = rows if completed is None else completed
    return [sentence for objective in objectives for sentence in _missed(objective, rows, done, seconds)]


def _objective(path: Path, number: int, fields: dict[str, Any]) -> Objective:
    known = [field.name for field in dataclasses.fields(Objective)]
    if unknown := [str(name) for name in fields if name not in known]:
        raise UsageError(
            f"{path}, objective {number}: {', '.join(unknown)} is not known here, only {', '.join(known)}"
        )
    try:
        return Objective(**{"name": None, **fields})
    except UsageError as error:
        raise UsageError(f"{path}, objective {number}: {error}") from None


def _missed(
    objective: Objective, rows: Sequence[Answered], completed: Sequence[Answered], seconds: float
) -> list[str]:
    mine = [row for row in rows if objective.fits(row)]
    if not mine:
        return [f"SLO {objective.name!r}: no answer fits it, so nothing was shown"]
    sentences = []
    for name, got_ms in percentiles_ms(mine).items():
        limit = getattr(objective, f"{name}_ms")
        if limit is not None and not got_ms <= limit:  # NaN, no right answer at all, holds nothing
            sentences.append(f"{name} was {got_ms:.0f} ms, expected at most {limit:g} ms")
    failures = failure_share(mine)
    goodput = goodput_per_s([row for row in completed if objective.fits(row)], seconds)
    if objective.failures is not None and failures > objective.failures:
        count = sum(row.wrong is not None for row in mine)
        sentences.append(
            f"{count} of {len(mine)} answers failed ({100 * failures:.3g} %), expected at most "
            f"{100 * objective.failures:.3g} %"
        )
    if objective.goodput_per_s is not None and goodput < objective.goodput_per_s:
        sentences.append(f"{goodput:.3g} right masks a second, expected at least {objective.goodput_per_s:g}")
    return [f"SLO {objective.name!r}: {sentence}" for sentence in sentences]
