"""nginx before the model server: TLS, only inference passes, quick refusals when it is full, canaries, one log.

    python -m deploy.front start                                   # before the server of run/, on 127.0.0.1:8090
    python -m deploy.front start --host 0.0.0.0 --port 8443 --certificate fullchain.pem --key key.pem
    python -m deploy.front canary rooms 2.0 --share 0.05           # and: canary rooms --off
    python -m deploy.front status | reload | rotate | stop

It runs as the user who starts it and writes nothing outside of RUN/front. nginx must be installed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from deploy import front_process, processes, run_folder
from deploy.addresses import is_loopback
from deploy.canary import clear_canary, require_front, set_canary, upstream_of
from deploy.front_config import FrontSettings
from deploy.front_options import CanaryOptions, Options, Reload, Rotate, Start, Status, Stop
from deploy.front_process import Front, front_running
from deploy.launch import TORCHSERVE_SIZES, read_properties
from deploy.run_folder import Running
from segserve.cli import command, run
from segserve.errors import ServerError, UsageError

FEWEST_MORE = 4
"""Beside the queue a worker holds a batch, of 2 by default. Many more would not fit where memory is short."""


def start(options: Start) -> int:
    """Exit code 0."""
    running = run_folder.require_running(options.run_dir)
    if not is_loopback(options.host) and running.auth != "token":
        raise UsageError(
            f"--host {options.host} lets other machines in, and the server at {running.url} asks nobody for a token; "
            "start that with --auth token"
        )
    settings = _settings(options, running)
    folder = Path(settings.folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    with run_folder.exclusive(folder):
        left = front_process.load(options.run_dir)
        if left and left.alive():
            stop_it = command("deploy.front", "stop", "--run-dir", options.run_dir)
            raise UsageError(
                f"a front runs already at {left.url} (process {left.pid}); stop it first: {stop_it}"
            )
        if left:  # it was killed: its workers may still be there
            front_process.end(left)
            front_process.clear(left)
        processes.require_free(settings.host, settings.port, "--port")
        front = front_process.launch(settings)
    print(f"front: {front.url} before {running.url}, {settings.max_in_flight} requests at a time")
    print(
        f"  logs {folder / 'logs'}, stop it: {command('deploy.front', 'stop', '--run-dir', options.run_dir)}"
    )
    if not is_loopback(options.host) and not settings.certificate:
        Console(stderr=True).print("no TLS: tokens and photos travel in the clear (--certificate, --key)")
    return 0


def _settings(options: Start, running: Running) -> FrontSettings:
    properties = read_properties(Path(running.run_dir) / "config.properties")
    queue, largest = (int(properties.get(key, default)) for key, default in TORCHSERVE_SIZES)
    return FrontSettings(
        folder=str(Path(running.run_dir) / front_process.FOLDER),
        upstream=upstream_of(running),
        host=options.host,
        port=options.port,
        max_body_bytes=largest,
        max_in_flight=more_than(queue) if options.max_in_flight is None else options.max_in_flight,
        names=options.names,
        # not resolved: certbot and Kubernetes renew by pointing a link elsewhere, and `reload` must follow it
        certificate=str(options.certificate.absolute()) if options.certificate else None,
        key=str(options.key.absolute()) if options.key else None,
    )


def more_than(queue: int) -> int:
    """Requests at a time before a queue of that length: some more than it holds, and the server refuses these.

    That is what its metrics count. Were all refused here, no alarm and no graph would show that clients are.
    """
    return queue + max(FEWEST_MORE, queue // 10)


def status(options: Status) -> int:
    """Exit code: 0 if the front runs, 1 if not."""
    front = front_running(options.run_dir)
    if options.json:
        found = {**dataclasses.asdict(front), "url": front.url} if front else None
        print(json.dumps({"running": front is not None, "front": found}))
    elif front is None:
        print(f"no front runs in {options.run_dir}")
    else:
        print(f"{front.url} before {front.settings.upstream}, process {front.pid}")
        for name, canary in front.canaries.items():
            print(f"  canary: {canary.share:.2%} of {name} to {canary.version}")
    return int(front is None)


def stop(options: Stop) -> int:
    """Exit code 0, also when nothing runs."""
    front = front_process.load(options.run_dir)
    if front is None:
        print(f"no front runs in {options.run_dir}")
        return 0
    front_process.end(front)  # may take a minute, in which others are not to wait for the lock
    if front.folder.is_dir():
        with run_folder.exclusive(front.folder):
            front_process.clear(front)
    print(f"stopped {front.url}")
    return 0


def reload(options: Reload) -> int:
    """Exit code 0."""
    with run_folder.exclusive(_front(options.run_dir).folder):
        front = _front(options.run_dir)  # again: a rollout may have changed its canaries until now
        front_process.change(front, front.canaries)
    return 0


def rotate(options: Rotate) -> int:
    """Exit code 0."""
    front_process.rotate(_front(options.run_dir))
    return 0


def canary(options: CanaryOptions) -> int:
    """Exit code: 0; 1 if that version can't be a canary."""
    running = run_folder.require_running(options.run_dir)
    if options.version is None or options.share is None:
        require_front(running)
        clear_canary(running, options.name)
        print(f"all of {options.name} goes to its default version")
    else:
        set_canary(running, options.name, options.version, options.share)
        print(f"{options.share:.2%} of {options.name} goes to {options.version}")
    return 0


def _front(run_dir: Path) -> Front:
    front = front_running(run_dir)
    if front is None:
        start_it = command("deploy.front", "start", "--run-dir", run_dir)
        raise ServerError(f"no front runs in {run_dir}; start it: {start_it}")
    return front


def main(options: Options) -> int:
    """Exit codes: see each command."""
    actions: dict[type, Callable[..., int]] = {
        Start: start, Status: status, Stop: stop, Reload: reload, Rotate: rotate, CanaryOptions: canary,
    }  # fmt: skip
    return actions[type(options.command)](options.command)


if __name__ == "__main__":
    run(Options, main)
