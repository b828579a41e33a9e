"""How a load ends: answers that are on their way are waited for, workers hand over what they saw, then the verdict.

Locust would cut off what is on its way, and its master waits half a second for the last reports of its workers: just
the slowest answers would be missing. So both are done here, when the test is about to stop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from locust import events
from locust.env import Environment
from locust.runners import STATE_INIT, STATE_MISSING, MasterRunner, WorkerRunner

from benchmarks.load_record import NO_REPORT, Record
from benchmarks.load_users import TIMEOUT_S, RoomsUser
from benchmarks.slo import Objective, missed
from segserve.errors import SegserveError

FINISH, DONE = "segserve_finish", "segserve_done"
"""Messages from the master to its workers, and back."""
REPORT = "segserve"
WATCH_EVERY_S = 1.0


def is_worker(environment: Environment) -> bool:
    """Whether a master tells this process what to do."""
    return isinstance(environment.runner, WorkerRunner)


def refuse(environment: Environment, error: SegserveError) -> None:
    """Options of the page that make no sense: end the run that is about to begin."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    environment.process_exit_code = error.exit_code
    if environment.runner is not None:
        gevent.spawn(environment.runner.stop)


def register(
    environment: Environment, record: Record, objectives: Sequence[Objective], versions: Sequence[str]
) -> None:
    """Take part in Locust's events.

    objectives: as they are at the end; each run may have others. versions: of packages whose golden photos are sent.
    """
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        _register_master(environment, runner, record)
    else:
        _register_load(environment, record)
        if isinstance(runner, WorkerRunner):
            _register_worker(environment, runner, record)
    if is_worker(environment):
        return

    def end(environment: Environment, **_: Any) -> None:
        if environment.runner is not None and environment.runner.state != STATE_INIT:
            environment.runner.stop()  # SIGTERM comes here first
        for version in versions:
            if version not in record.versions:
                print(f"note: no right mask came from version {version}, whose package was given with --mar")
        if found := verdict(environment.stats.total.num_requests, record, objectives):
            print("\n".join(f"error: {sentence}" for sentence in found), file=sys.stderr, flush=True)
            environment.process_exit_code = environment.process_exit_code or 1

    _listen(events.quitting, end)


def verdict(num_requests: int, record: Record, objectives: Sequence[Objective]) -> list[str]:
    """A sentence for each reason, other than wrong answers, for which the load test has failed."""
    if num_requests == 0:
        return [*record.gaps(), "no request was answered"]
    return [
        *record.gaps(),
        *record.bottlenecks(),
        *missed(objectives, record.rows, max(1e-9, record.seconds)),
    ]


def _register_load(environment: Environment, record: Record) -> None:
    """In a process that sends requests."""
    watch: list[gevent.Greenlet] = []

    def begin(**_: Any) -> None:
        RoomsUser.ending = False
        record.clear()
        watch[:] = [gevent.spawn(keep_watching)]

    def keep_watching() -> None:
        while True:
            record.watch()
            gevent.sleep(WATCH_EVERY_S)

    def drain(environment: Environment, **_: Any) -> None:
        if not watch:
            return
        watch.pop().kill()
        RoomsUser.ending = True
        record.finish(environment.runner.client_id if is_worker(environment) else "1")  # type: ignore[union-attr]
        RoomsUser.on_their_way.join(timeout=TIMEOUT_S + 10)

    _listen(events.test_start, begin)
    _listen(events.test_stopping, drain)


def _register_worker(environment: Environment, runner: WorkerRunner, record: Record) -> None:
    def report(data: dict[str, Any], **_: Any) -> None:
        data[REPORT] = record.take()

    def finish(**_: Any) -> None:
        runner.stop()
        runner.send_message(DONE, record.take())

    _listen(events.report_to_master, report)
    runner.register_message(FINISH, finish, concurrent=True)


def _register_master(environment: Environment, runner: MasterRunner, record: Record) -> None:
    waiting: set[str] = set()

    def begin(**_: Any) -> None:
        record.clear()
        # Locust forgets a worker that is gone, and goes on with less load than was asked for
        waiting.update(_present(runner))

    def merge(data: dict[str, Any], **_: Any) -> None:
        if piece := data.get(REPORT):
            record.merge(piece)

    def done(msg: Any, **_: Any) -> None:
        record.merge(msg.data)
        waiting.discard(msg.node_id)

    def finish(**_: Any) -> None:
        waiting.update(_present(runner))
        for client_id in _present(runner):
            runner.send_message(FINISH, client_id=client_id)
        _wait_for(runner, waiting)
        if waiting:
            print(f"error: {NO_REPORT} {', '.join(sorted(waiting))}", file=sys.stderr, flush=True)
            environment.process_exit_code = 1
        waiting.clear()

    _listen(events.test_start, begin)
    _listen(events.worker_report, merge)
    _listen(events.test_stopping, finish)
    runner.register_message(DONE, done)


def _wait_for(runner: MasterRunner, waiting: set[str]) -> None:
    """Until none is left in it, except of those that are gone."""
    deadline = time.monotonic() + TIMEOUT_S + 20
    while waiting & _present(runner) and time.monotonic() < deadline:
        gevent.sleep(0.05)


def _present(runner: MasterRunner) -> set[str]:
    return {client.id for client in runner.clients.all if client.state != STATE_MISSING}


def _listen(hook: Any, listener: Callable[..., None]) -> None:
    hook.add_listener(listener)
