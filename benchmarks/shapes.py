"""Shapes of load for Locust: steps up to the knee, a spike, a long soak, a trace of real traffic.

    python -m locust -f benchmarks/locustfile.py,benchmarks/shapes.py --headless --host … --shape steps --step-users 4
    python -m locust -f benchmarks/locustfile.py,benchmarks/shapes.py --headless --host … OpenUser --shape replay \\
        --trace monday.csv
    python -m locust -f benchmarks/locustfile.py,benchmarks/shapes.py --class-picker --host …      # chosen in the page

A shape counts users. With OpenUser each is one request a second, so that shapes are of arrivals. Locust looks once a
second, so nothing here is finer than that.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from locust import LoadTestShape, events
from locust.env import Environment

from benchmarks import load_shapes, load_users
from segserve.errors import UsageError


class Plan(Protocol):
    """How many users when."""

    def at(self, seconds: float) -> int | None:
        """Users at that time; None when the load is over."""


class PlannedShape(LoadTestShape):
    """What the four have in common: Locust asks every second, all users that are missing come at once."""

    abstract = True
    plan: Plan | None = None

    @abstractmethod
    def make(self, options: Any) -> Plan:
        """From the options of the command line or the page. Raises: UsageError."""

    def tick(self) -> tuple[int, float] | None:
        """Called by Locust once a second. A slow start would shift the whole shape, so there is none."""
        assert self.runner is not None
        environment = self.runner.environment
        try:
            self.plan = self.plan or self.make(environment.parsed_options)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            environment.process_exit_code = error.exit_code
            return None
        users = self.plan.at(self.get_run_time())  # type: ignore[no-untyped-call]
        return None if users is None else (users, max(1.0, users))

    def reset_time(self) -> None:
        """A new run begins, perhaps with other options."""
        self.plan = None
        super().reset_time()  # type: ignore[no-untyped-call]


class Steps(PlannedShape):
    """See load_shapes.Steps."""

    def make(self, options: Any) -> Plan:
        """From the options."""
        return load_shapes.Steps(options.step_users, options.step_s, options.steps)


class Spike(PlannedShape):
    """See load_shapes.Spike."""

    def make(self, options: Any) -> Plan:
        """From the options."""
        return load_shapes.Spike(options.calm_users, options.spike_users, options.calm_s, options.spike_s)


class Soak(PlannedShape):
    """See load_shapes.Soak."""

    def make(self, options: Any) -> Plan:
        """From the options."""
        return load_shapes.Soak(options.soak_users, options.soak_minutes, options.soak_ramp_s)


class Replay(PlannedShape):
    """See load_shapes.read_trace."""

    def make(self, options: Any) -> Plan:
        """From the file. Raises: UsageError also where its arrivals would be sent by users who wait for answers."""
        if not options.trace:
            raise UsageError(
                "--trace: give a CSV file with the columns seconds,users or seconds,arrivals_per_s"
            )
        trace = load_shapes.read_trace(Path(options.trace))
        assert self.runner is not None
        users = self.runner.environment.user_classes
        if trace.of_arrivals and not all(issubclass(user, load_users.OpenUser) for user in users):
            raise UsageError(f"--trace: {options.trace} has arrivals: name OpenUser on the command line")
        return trace


SHAPES: Mapping[str, Callable[[], PlannedShape]] = {
    "steps": Steps,
    "spike": Spike,
    "soak": Soak,
    "replay": Replay,
}


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: Any) -> None:
    """Of each shape; the others' are ignored."""
    add = parser.add_argument_group(
        "load shapes", "In users; with OpenUser, in requests a second"
    ).add_argument
    add(
        "--shape",
        choices=SHAPES,
        default="steps",
        help="which one; --class-picker lets the page choose instead",
    )
    add("--step-users", type=int, default=2, help="steps: so many more in each step")
    add("--step-s", type=float, default=30.0, help="steps: seconds of each step")
    add("--steps", type=int, default=8, help="steps: how many")
    add("--calm-users", type=int, default=2, help="spike: before and after")
    add("--spike-users", type=int, default=32, help="spike: while it lasts")
    add("--calm-s", type=float, default=60.0, help="spike: seconds before, and again after")
    add("--spike-s", type=float, default=30.0, help="spike: seconds that it lasts")
    add("--soak-users", type=int, default=4, help="soak: how many")
    add("--soak-minutes", type=float, default=60.0, help="soak: how long")
    add("--soak-ramp-s", type=float, default=10.0, help="soak: seconds until all are there")
    add("--trace", default="", help="replay: CSV file, columns seconds and users (or arrivals_per_s)")


@events.init.add_listener  # type: ignore[untyped-decorator]
def choose(environment: Environment, **_: Any) -> None:
    """Locust takes the first shape of a file; here the option says which."""
    options: Any = environment.parsed_options
    if options.worker or options.class_picker:
        return
    shape = SHAPES[options.shape]()
    shape.runner = environment.runner
    environment.shape_class = shape
    try:
        shape.make(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
