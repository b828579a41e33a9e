"""Start and stop the model server.

    python -m deploy.server start                  # until Ctrl-C or SIGTERM
    python -m deploy.server start --detach         # in the background, returns when a worker is READY
    python -m deploy.server attach | stop | renew-tokens
    python -m deploy.status                        # what it serves

Started without --models it comes back with what it served last. A default version that does not load ends the start; a
spare one (kept for a rollback, say) is reported, left out, and tried again by the next start. What a rollout left that
the end of the server cut off goes.

One run folder (--run-dir, default run) is one server. Inference listens on loopback without tokens; `--auth token`
turns tokens on for inference and management, and any `--host` that other machines can reach does so by itself. Behind
a front that lets other machines in, a start without tokens is refused.
Management listens on a unix socket in the run folder, which only its owner may enter.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
from rich.console import Console

from deploy import front_process, journal, launch, processes, run_folder, served
from deploy.addresses import address, is_loopback
from deploy.interrupts import Asked, Interrupts
from deploy.management import Management
from deploy.options import Attach, Options, RenewTokens, Start, Stop
from deploy.ready import StartLogs, wait_ready
from deploy.run_folder import Running
from deploy.served import Wanted
from deploy.undo import recover
from segserve.cli import command, run
from segserve.errors import SegserveError, UsageError

STOP_TIMEOUT_S = 30.0
INTERRUPTED = 130


def start(options: Start) -> int:
    """Exit code: 0, 130 if interrupted before it was ready, the server's if that ends. Failures leave nothing."""
    interrupts = Interrupts()
    wanted, running, process, logs = _launch(options)
    ready = False
    try:
        interrupts.arm()
        with Console(stderr=True).status("waiting for the workers"):
            without = wait_ready(running, process, logs, options.ready_timeout_s, _say, wanted)
        with Management.of(running) as management:
            if not without:  # else the record stays as it is: the next start tries them again
                served.remember(Path(running.run_dir), management)
            _forget_rollout(running, management)
            defaults = {name: management.default_version(name) for name in running.models}
        _print_ready(running, defaults)
        ready = True
        if options.detach:
            return 0
        code = _ended(process.wait(), running)
    except Asked:
        code = 0 if ready else INTERRUPTED
    finally:
        interrupts.disarm()
        if not (ready and options.detach):
            _say("stopping")
            _stop(running)
            process.wait()
    return code


def _launch(options: Start) -> tuple[Wanted, Running, subprocess.Popen[bytes], StartLogs]:
    properties = launch.read_properties(options.config)
    inference = address(properties, "inference_address", options.host, options.port)
    metrics = address(properties, "metrics_address", options.metrics_host, options.metrics_port)
    auth = options.auth if is_loopback(inference[0]) else "token"
    if inference[1] == metrics[1]:
        raise UsageError(f"--port and --metrics-port are both {metrics[1]}; they need one each")
    store = options.model_store.resolve()
    wanted = served.wanted(options.run_dir, options.models)
    models = launch.loadable(store, wanted)
    run_dir = run_folder.create(options.run_dir)
    with run_folder.exclusive(run_dir):
        _make_room(run_dir, options.run_dir)
        _require_tokens_behind_front(options.run_dir, auth)
        processes.require_free(*inference, "--port")
        processes.require_free(*metrics, "--metrics-port")
        logs = StartLogs(run_dir / "logs")
        plan = launch.Plan(run_dir, options.config, store, models, inference, metrics, auth)
        running, process = launch.launch(plan)
    return wanted, running, process, logs


def _make_room(run_dir: Path, named: Path) -> None:
    """Clear up after a server that was killed. Raises: UsageError if one runs."""
    left = run_folder.load(run_dir)
    if left and left.alive():
        raise UsageError(
            f"{run_dir} already runs a server at {left.url} (process {left.pid}); stop it first: "
            f"{command('deploy.server', 'stop', '--run-dir', named)}, or choose another --run-dir"
        )
    if left:  # its workers and sockets may still be there
        _clear_up(left)


def _require_tokens_behind_front(run_dir: Path, auth: str) -> None:
    """As `deploy.front start` does: a front may outlive the server with tokens that it was started before.

    Raises: UsageError for a server without tokens where a front lets other machines in.
    """
    front = front_process.load(run_dir) if auth != "token" else None
    if front and not front.alive():  # it was killed: its workers may still be there, and answer
        front_process.end(front)
        with run_folder.exclusive(front.folder):
            front_process.clear(front)
    elif front and not is_loopback(front.settings.host):
        stop_it = command("deploy.front", "stop", "--run-dir", run_dir)
        raise UsageError(
            f"the front {front.url} (process {front.pid}) lets other machines in, and this server would ask nobody for "
            f"a token; start it with --auth token, or stop the front first: {stop_it}"
        )


def _forget_rollout(running: Running, management: Management) -> None:
    """One that was killed before its version was to stay: what was started now is all that there is to serve."""
    run_dir = Path(running.run_dir)
    try:
        if journal.load(run_dir) is None:
            return
        with journal.exclusive(run_dir):
            left = journal.load(run_dir)  # now that nobody else has it
            if left is not None and management.version(left.name, left.new) is None:
                recover(running, management, _say)
            elif left is not None and not left.committed:
                journal.clear(run_dir)  # --models named its version, so nobody shall take it back
    except (
        SegserveError
    ) as error:  # a rollout that is at work looks after itself; a good start is no less good
        _say(str(error))


def attach(options: Attach) -> int:
    """Exit code: 0 when asked to stop; 1 if the server ended by itself."""
    interrupts = Interrupts()
    running = run_folder.require_running(options.run_dir)
    try:
        interrupts.arm()
        print(f"serving at {running.url}; Ctrl-C stops it", flush=True)
        psutil.Process(running.pid).wait()
        code = 1
        _say(f"the server ended; see {running.log_dir}")
    except Asked:
        code = 0
        _say("stopping")
    interrupts.disarm()
    _stop(running)
    return code


def stop(options: Stop) -> int:
    """Exit code 0, also when nothing runs."""
    running = run_folder.load(options.run_dir)
    if running is None:
        print(f"nothing runs in {options.run_dir}")
        return 0
    _stop(running)
    print(f"stopped {running.url}")
    return 0


def renew_tokens(options: RenewTokens) -> int:
    """Exit code 0."""
    running = run_folder.require_running(options.run_dir)
    if running.auth != "token":
        raise UsageError(f"the server at {running.url} runs without tokens; start it with --auth token")
    with Management.of(running) as management:
        management.renew_tokens()
    print(f"new tokens are in {Path(running.run_dir) / run_folder.KEY_FILE}")
    return 0


def _stop(running: Running) -> None:
    if running.alive():
        processes.end_session(running.pid, STOP_TIMEOUT_S)
    run_dir = Path(running.run_dir)
    if run_dir.is_dir():
        with run_folder.exclusive(run_dir):
            _clear_up(running)
    else:  # somebody removed it, and with it what the lock is for
        _clear_up(running)


def _clear_up(running: Running) -> None:
    """After a server that has ended; whoever calls holds the run folder's lock."""
    processes.end_orphans(running.pid, running.tmp_dir)
    run_folder.clear(running)


def _ended(code: int, running: Running) -> int:
    _say(f"the server ended by itself with code {code}; see {running.log_dir}")
    return 128 - code if code < 0 else code


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def _print_ready(running: Running, defaults: dict[str, str]) -> None:
    key_file = Path(running.run_dir) / run_folder.KEY_FILE
    print(
        f"ready: {running.url} serves {', '.join(f'{name} {version}' for name, version in defaults.items())}"
    )
    print(
        f"  metrics {running.metrics_url}/metrics, management {running.management_socket}, logs {running.log_dir}"
    )
    if not is_loopback(urlsplit(running.metrics_url).hostname or ""):
        _say(f"{running.metrics_url}/metrics asks nobody for a token: let only Prometheus reach it")
    print(f"  tokens: {key_file}" if running.auth == "token" else "  tokens: off (loopback only)", flush=True)


def main(options: Options) -> int:
    """Exit codes: see each command."""
    actions: dict[type, Callable[..., int]] = {
        Start: start, Attach: attach, Stop: stop, RenewTokens: renew_tokens,
    }  # fmt: skip
    return actions[type(options.command)](options.command)


if __name__ == "__main__":
    run(Options, main)
