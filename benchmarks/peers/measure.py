"""One server after another: find its best settings in a short sweep, then its best concurrency, and judge its masks.

Slow servers get the answers that a figure needs (a round of full batches) and no more; fast ones get the seconds.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import client
from benchmarks.client import Load
from benchmarks.peers import content
from benchmarks.peers.catalogue import Model, Peer, Settings
from benchmarks.peers.content import Labels
from benchmarks.peers.servers import Server, log_tail
from benchmarks.photos import Photo
from segserve.errors import CheckFailed, ServerError

READY_TIMEOUT_S = 120.0
WARM_UP_S = 2.0
WORTH = 1.05
"""More clients are tried as long as the last step up made it this much faster."""


@dataclass(frozen=True)
class Plan:
    """What is sent, how long, and what must come back."""

    photos: list[Photo]
    right: list[Labels]
    concurrencies: tuple[int, ...]
    duration_s: float
    python: Path
    say: Callable[[str], None]


@dataclass
class Result:
    """Of one server. `sweep` holds images/s by settings, `loads` what each number of clients got."""

    peer: Peer
    settings: Settings
    sweep: dict[str, float | str] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    lowest_agreement: float = 0.0
    answers_judged: int = 0
    peak_mib: float = 0.0
    engine: str = ""

    @property
    def best(self) -> Load:
        """The load with most images/s."""
        return max(self.loads, key=lambda load: load.images_per_s)


def candidates(cores: int) -> list[Settings]:
    """Worth trying on a CPU, the likely best first: a worker for each core, one with all cores, two that overlap."""
    tried = [
        Settings(cores, 1, 4), Settings(1, cores, 4), Settings(2, cores, 4), Settings(cores, 1, 2),
    ]  # fmt: skip
    return list(dict.fromkeys(tried))


def sweep(
    peer: Peer, model: Model, plan: Plan, settings: list[Settings], until_s: float
) -> tuple[Settings, Load, dict[str, float | str]]:
    """The fastest of the settings, its load, and images/s of each, or why there is no figure.

    Args: until_s is the time.monotonic() after which nothing more is tried, once something worked.
    Raises: ServerError if none works.
    """
    found: dict[str, float | str] = {}
    loads: dict[Settings, Load] = {}
    for each in settings:
        if loads and time.monotonic() > until_s:
            found[str(each)] = "not tried for want of time"
            continue
        try:
            with serving(peer, model, plan, each) as server:
                load = drive(peer, server, plan, 2 * each.workers * each.batch, plan.duration_s / 2, each)
        except ServerError as error:
            found[str(each)] = str(error)
            continue
        found[str(each)] = load.images_per_s
        if load.good and not load.failed:
            loads[each] = load
        plan.say(f"{peer.title}: {load.images_per_s:.2f} images/s with {each} (workers x threads x batch)")
    if not loads:
        raise ServerError(f"{peer.title} answers with none of the settings: {found}")
    best = max(loads, key=lambda each: loads[each].images_per_s)
    return best, loads[best], found


def measure(peer: Peer, model: Model, plan: Plan, settings: Settings, until_s: float) -> Result:
    """More and more clients, as long as that makes it faster and there is time; then the masks are compared.

    Raises: ServerError, CheckFailed.
    """
    result = Result(peer, settings)
    with serving(peer, model, plan, settings) as server:
        for concurrency in plan.concurrencies:
            load = drive(peer, server, plan, concurrency, plan.duration_s, settings)
            plan.say(f"{peer.title}: {load.images_per_s:.2f} images/s with {concurrency} clients")
            gained = not result.loads or load.images_per_s > WORTH * result.best.images_per_s
            result.loads.append(load)
            if load.failed:
                raise CheckFailed(
                    f"{peer.title}: {len(load.failed)} failed: {load.failed[0].error or load.failed[0]}"
                )
            if not gained or time.monotonic() > until_s:
                break
        server.sample_memory()
        result.peak_mib = server.peak_mib
    bodies = [(a.request, a.body) for load in result.loads for a in load.answers if a.body is not None]
    found = content.agreements(bodies, peer.labels, plan.right)
    result.lowest_agreement, result.answers_judged = min(found), len(found)
    result.engine = result.best.answers[0].headers.get("x-segserve-engine", "")
    return result


def drive(
    peer: Peer, server: Server, plan: Plan, concurrency: int, duration_s: float, settings: Settings
) -> Load:
    """Warm every worker up, until nothing of an earlier load is left in the queue; then a window of a round at least.

    Raises: ServerError if the server does not answer.
    """
    requests = [peer.request(server.url, photo.jpeg) for photo in plan.photos]
    round_size = settings.workers * settings.batch
    try:
        client.drive(server.url, requests, settings.workers, WARM_UP_S, min_answers=settings.workers)
        return client.drive(
            server.url, requests, concurrency, duration_s, min_answers=round_size, keep_bodies=1, drain=False
        )
    except OSError as error:
        raise ServerError(f"{peer.title} went away: {error}; {log_tail(server.log)}") from None


@contextmanager
def serving(peer: Peer, model: Model, plan: Plan, settings: Settings) -> Iterator[Server]:
    """The server in a scratch folder, once it has segmented a photo; afterwards both are gone."""
    work = Path(tempfile.mkdtemp(prefix="peers-"))
    try:
        with peer.start(model, settings, plan.python, work) as server:
            _wait_answer(peer, server, plan.photos[0])
            yield server
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _wait_answer(peer: Peer, server: Server, photo: Photo) -> None:
    request = peer.request(server.url, photo.jpeg)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        load = client.drive(server.url, [request], 1, 0.0, min_answers=1)
        if load.answers[0].status == 200:
            return
        if time.monotonic() > deadline:
            raise ServerError(
                f"no mask: {load.answers[0].status} {load.answers[0].error}; {log_tail(server.log)}"
            )
        time.sleep(0.2)
