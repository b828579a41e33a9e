"""What a load test writes down of each answer, one JSON object a line, and what is counted of it.

benchmarks/locustfile.py writes the file with `--answers FILE`; everything that draws, compares or judges reads it here:

    rows = read(Path("answers.jsonl"))
    percentiles_ms(rows)["p99"], goodput_per_s(rows, seconds=60.0), failure_share(rows)

Latency counts from when a request was due, not from when it was sent: a load generator that waits for a slow server
before it sends the next request would leave out just the requests that had to wait (coordinated omission; Tene, "How
NOT to measure latency", 2015).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import percentile
from segserve.errors import UsageError

BODIES = ("raw", "multipart")
PERCENTS = (50, 95, 99)

# what the server says of each answer
VERSION_HEADER = "x-segserve-version"
DEVICE_HEADER = "x-segserve-device"
ENGINE_HEADER = "x-segserve-engine"
BATCH_SIZE_HEADER = "x-segserve-batch-size"
TIMING_HEADER = "server-timing"

NO_ROOM = ("has no worker to serve inference request", '"Overloaded"')
"""What a 503 says that only asks to come again: TorchServe's words for a full queue (and for a model without workers),
and the type of error of the front and of our handler where they take no more."""


@dataclass(frozen=True)
class Answered:
    """One answer, or none.

    due, sent, done: seconds since 1970; when it should have been sent, was sent, was complete.
    status: 0 if no answer came. wrong: what was wrong with it; None also for a full server's 503 to who comes again.
    format: asked for: png, json, npy, overlay; "error" for a file that deserves one. body: raw or multipart.
    version, device, engine, batch_size: as the answer's headers say, None where it had none.
    server_ms: step -> milliseconds, from Server-Timing. bytes: of the answer's body.
    """

    due: float
    sent: float
    done: float
    status: int
    wrong: str | None
    photo: str
    format: str
    body: str
    version: str | None
    device: str | None
    engine: str | None
    batch_size: int | None
    server_ms: Mapping[str, float]
    bytes: int

    def __post_init__(self) -> None:
        if not self.due <= self.sent <= self.done:
            raise UsageError(f"due {self.due}, sent {self.sent}, done {self.done}: expected in this order")
        if self.body not in BODIES:
            raise UsageError(f"body is {self.body!r}, expected one of {', '.join(BODIES)}")

    @property
    def latency_ms(self) -> float:
        """From when it was due."""
        return 1e3 * (self.done - self.due)

    @property
    def good(self) -> bool:
        """A right mask: refusals that were deserved are not wrong, but no masks either."""
        return self.status == 200 and self.wrong is None

    def line(self) -> str:
        """As it stands in the file."""
        return json.dumps(dataclasses.asdict(self)) + "\n"


def no_room(status: int, said: str) -> bool:
    """Whether an answer says that the server is full.

    Any other 503 is a lost request: TorchServe gives it to the whole batch of a handler that raised, or that did not
    return an answer for each request.
    """
    return status == 503 and any(words in said for words in NO_ROOM)


def append(file: int, row: Answered) -> None:
    """Write a line to a descriptor opened with O_APPEND, in one call: lines of several processes never mix."""
    os.write(file, row.line().encode())


def read(path: Path) -> list[Answered]:
    """All answers, in the order in which they were written. Raises: UsageError with the line that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(parse(json.loads(line)))
        except (ValueError, TypeError, UsageError) as error:
            raise UsageError(
                f"{path}, line {number} is no answer of benchmarks/locustfile.py: {error}"
            ) from None
    return rows


def parse(fields: dict[str, Any]) -> Answered:
    """From the object of one line. Raises: TypeError or UsageError where its fields are others."""
    return Answered(**fields)


def server_ms(timing: str | None) -> dict[str, float]:
    """`decode;dur=5.0, engine;dur=40.0` -> milliseconds by step; parts of other servers on the way are left out."""
    found = {}
    for part in (timing or "").split(","):
        step, _, value = part.strip().partition(";dur=")
        try:
            found[step] = float(value)
        except ValueError:
            continue
    return found


def percentiles_ms(rows: Sequence[Answered], percents: Sequence[float] = PERCENTS) -> dict[str, float]:
    """Latency of the good answers: "p50" -> milliseconds, nearest rank; NaN if there are none."""
    latencies_ms = [row.latency_ms for row in rows if row.good]
    return {f"p{percent:g}": percentile(latencies_ms, percent) for percent in percents}


def goodput_per_s(rows: Sequence[Answered], seconds: float) -> float:
    """Right masks a second; seconds: how long the load took."""
    return sum(row.good for row in rows) / seconds


def mean_batch(sizes: Iterable[int]) -> float:
    """Of all batches, from the size that each answer's batch had; NaN without an answer.

    A batch of 8 is told by eight answers, so their own mean would count it eight times.
    """
    told = list(sizes)
    return statistics.harmonic_mean(told) if told else math.nan


def failure_share(rows: Sequence[Answered]) -> float:
    """Of all answers, those that were wrong or never came; 0 if there are none."""
    return sum(row.wrong is not None for row in rows) / max(1, len(rows))
