"""A load test for Locust that looks at what comes back: any answer that is not the right mask counts as a failure.

    python -m locust -f benchmarks/locustfile.py --headless --host http://127.0.0.1:8080 -u 4 -t 20s
    python -m locust -f benchmarks/locustfile.py --headless --host … -u 4 -t 60s --rate 20 --slo benchmarks/slo.toml
    python -m locust -f benchmarks/locustfile.py --headless --host … --mar model_store/rooms.mar --processes 2 -u 8
    python -m locust -f benchmarks/locustfile.py,benchmarks/shapes.py --headless --host … OpenUser --shape spike

Users are RoomsUser (closed load) or, with `--rate`, OpenUser; name a class, or take --class-picker, to choose in other
ways. At the start, while nothing else runs, each photo is sent once: these masks are what every later answer of the
same version must equal, in all formats. A server that is wrong from the start is found out by `--mar` only. Rows of
Locust's table are split by format, version and device; their times count from when a request was due. Works in the
page, headless, with --processes, and with --master and --worker (give workers the same options as the master).

    python -m benchmarks.locustfile      # all options, those of load shapes too: Locust's --help leaves them out

Exit code: 0; 1 if an answer was missing or wrong, if there was none at all, if an objective of `--slo` was missed, or
if the client itself was the bottleneck; 2 for wrong usage.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

from locust import events
from locust.argument_parser import get_parser
from locust.env import Environment

from benchmarks import load_end, slo
from benchmarks.known_masks import Masks
from benchmarks.load_photos import golden_photos_of, parse_formats, photos_to_send
from benchmarks.load_record import Record
from benchmarks.load_users import OpenUser, RoomsUser
from benchmarks.progress import told
from benchmarks.slo import Objective
from deploy.incoming import spec_of
from deploy.run_folder import read_token
from segserve.errors import CheckFailed, SegserveError, UsageError
from segserve.labels import ROOM_CLASSES

FORMATS = "png=6,json=2,npy=1,overlay=1"
ARRIVALS = ("poisson", "constant")
OBJECTIVES: list[Objective] = []
"""Of --slo, as it is given for the run under way; empty in a worker, whose master judges."""
RATE_HELP = (
    "open load: requests a second of the whole run, shared out among -u users (one a process is enough)"
)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: Any) -> None:
    """What Locust cannot know."""
    group = parser.add_argument_group(
        "segserve", "What is sent to a segserve server, and what must come back"
    )
    add = group.add_argument
    add("--model", default="rooms", help="name of the model at the server")
    add("--num-classes", type=int, default=len(ROOM_CLASSES), help="classes of that model")
    add("--photos", default="", help="folder of .jpg and .png files; default: rendered rooms, 0.3 to 12 MP")
    add("--mar", action="append", default=[], help="package whose golden photos are sent too; repeatable")
    add("--formats", default=FORMATS, help=f"answer formats and how often each; default: {FORMATS}")
    add("--multipart", type=float, default=0.0, help="share of requests that are forms, 0 to 1; default: 0")
    add("--think-s", type=float, default=0.0, help="closed load: seconds from answer to next request")
    add("--rate", type=float, default=0.0, help=RATE_HELP)
    add("--arrivals", choices=ARRIVALS, default=ARRIVALS[0], help="open load: gaps between requests")
    add("--answers", default="", help="file for a line of JSON on each answer: when, what, who")
    add("--slo", default="", help="file of objectives, as benchmarks/slo.toml; exit code 1 if one is missed")
    # from the master to its workers, no option for people
    hidden = {"help": SUPPRESS, "include_in_web_ui": False}
    parser.add_argument("--sharing-users", type=int, default=1, **hidden)


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: Any) -> None:
    """Before any load: options, photos and the mask of each; without them the test makes no sense."""
    options: Any = environment.parsed_options
    RoomsUser.host = environment.host or options.host
    try:
        _set_up(options)
        _read_objectives(environment)
        _choose(environment)
        versions = _photos(options)
        _learn(environment)
        if options.answers and not load_end.is_worker(environment):
            Path(options.answers).write_text("")
        RoomsUser.record = Record(Path(options.answers) if options.answers else None, bool(options.slo))
    except (SegserveError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(getattr(error, "exit_code", 2))
    environment.stats.reset_all()  # the quiet requests are no part of the load
    load_end.register(environment, RoomsUser.record, OBJECTIVES, versions)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def begin(environment: Environment, **_: Any) -> None:
    """Options may have been changed in the page since the last run."""
    options, runner = environment.parsed_options, environment.runner
    assert options is not None
    assert runner is not None
    try:
        if not load_end.is_worker(environment):
            options.sharing_users = max(1, runner.target_user_count)
            _choose(environment)
        _set_up(options)
        _read_objectives(environment)
        if RoomsUser.record is not None:
            RoomsUser.record.keep_rows = bool(options.slo)  # a worker has it from its master
    except UsageError as error:
        load_end.refuse(environment, error)


def _set_up(options: Any) -> None:
    if not 0 <= options.multipart <= 1:
        raise UsageError(f"--multipart is {options.multipart:g}, expected a share from 0 to 1")
    if min(options.think_s, options.rate) < 0:
        raise UsageError("--think-s and --rate: expected numbers from 0")
    RoomsUser.path = f"/predictions/{options.model}"
    RoomsUser.formats = parse_formats(options.formats)
    RoomsUser.multipart_share, RoomsUser.think_s = options.multipart, options.think_s
    OpenUser.rate_per_s = options.rate / options.sharing_users if options.rate else 1.0
    OpenUser.poisson = options.arrivals == "poisson"


def _read_objectives(environment: Environment) -> None:
    """Raises: UsageError."""
    options: Any = environment.parsed_options
    there = options.slo and not load_end.is_worker(environment)
    OBJECTIVES[:] = slo.read(Path(options.slo)) if there else ()


def _choose(environment: Environment) -> None:
    """Closed or open load, if nobody has named a class. Raises: UsageError for options that contradict each other."""
    options: Any = environment.parsed_options
    open_load = [user for user in environment.user_classes if issubclass(user, OpenUser)]
    closed_load = [user for user in environment.user_classes if user not in open_load]
    if open_load and closed_load and not (options.user_classes or options.class_picker):
        if load_end.is_worker(environment):
            return  # it takes what the master gives
        environment.user_classes = [*(open_load if options.rate else closed_load)]
    if options.rate and environment.shape_class is not None:
        raise UsageError("--rate does not go with a load shape: there, each OpenUser is one request a second")
    if options.rate and any(user not in open_load for user in environment.user_classes):
        raise UsageError("--rate goes with OpenUser alone: name no class, or that one")


def _photos(options: Any) -> list[str]:
    """Returns: the versions of the packages. Raises: UsageError."""
    RoomsUser.masks = Masks(options.num_classes)
    packages = [Path(path) for path in options.mar]
    golden, versions = golden_photos_of(packages)
    for spec in map(spec_of, packages):
        RoomsUser.masks.expect_names(spec.version, spec.classes)
    for one in golden:
        for version, labels in one.labels.items():
            RoomsUser.masks.expect(one.photo.name, version, labels)
    sent = photos_to_send(Path(options.photos) if options.photos else None)
    RoomsUser.photos = (*sent, *(one.photo for one in golden))
    return versions


def _learn(environment: Environment) -> None:
    """The mask of each photo while nothing else runs. Raises: CheckFailed, UsageError."""
    key_file = os.environ.get("TOKEN_FILE")
    token = {"Authorization": f"Bearer {read_token(Path(key_file), 'inference')}"} if key_file else {}
    RoomsUser.headers = token
    if not RoomsUser.host:
        raise UsageError("no server: give --host http://127.0.0.1:8080 (`make serve` starts one there)")
    user = RoomsUser(environment)
    for photo in told(RoomsUser.photos, "photos sent while nothing else runs"):
        if wrong := user.send(photo, "png"):
            raise CheckFailed(
                f"{RoomsUser.host} gave no right mask of a quiet photo {photo.name}: {wrong}\n"
                "`make serve` starts a server; AUTH=token, if any, goes to both."
            )
    RoomsUser.masks.require_content()
    RoomsUser.masks.make_ready(RoomsUser.formats)


if __name__ == "__main__":
    import benchmarks.shapes  # noqa: F401  (for its options)

    get_parser().parse_args(["--help"])
