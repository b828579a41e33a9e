"""The script that Amazon SageMaker runs: turns its variables and hyperparameters into options of training.train.

    python training/sagemaker_entry.py --epochs 50 --batch_size 32 --pretrained True     # what SageMaker calls
    torchrun --nproc_per_node 8 training/sagemaker_entry.py --epochs 50 ...              # with torch_distributed

Hyperparameters are the options of training.train, with _ or -; those with several values, such as repeat, as a list
([1, 20]) or with spaces between (1 20). Besides:

    data           descriptions in the channels, as CHANNEL/FILE or CHANNEL, in the order that repeat goes by, the one
                   to validate on first; left out: dataset.toml of every channel that has one, in SageMaker's order
    checkpoints    folder that SageMaker keeps in S3 (default /opt/ml/checkpoints); a training found there goes on

At the end model.safetensors, model.json and metrics.jsonl are copied to SM_MODEL_DIR, which SageMaker packs and keeps.
Without torch_distributed it starts torchrun itself where there are several GPUs or hosts. SageMaker's script mode does
not pass a spot machine's SIGTERM on to this process, so give save_every_steps.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parents[1]
# As a script its own folder comes first on the path, where config.py or metrics.py would hide other packages' modules.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path).resolve() != ROOT / "training")]

import torch  # noqa: E402

from segserve import cli  # noqa: E402
from segserve.errors import UsageError  # noqa: E402
from training import train  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.sagemaker_launch import CHECKPOINTS, TORCH  # noqa: E402

DESCRIPTION = "dataset.toml"
PORT = "7777"  # as SageMaker's own torchrun
KEPT = ("model.safetensors", "model.json", "metrics.jsonl")


def require_torch(version: str) -> None:
    """Raises UsageError where the image's PyTorch is older than training needs; `version`: such as 2.13.0+cu130."""
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < TORCH:
        raise UsageError(
            f"this image has PyTorch {version}, expected {TORCH[0]}.{TORCH[1]} or later: give "
            "training.sagemaker_launch another --image"
        )


def hyperparameters(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Name (with _) to value: from the command line, `--name value` each, or from SM_HPS where that is empty.

    Raises: UsageError for a command line that is not made of such pairs.
    """
    pairs = dict(json.loads(environ.get("SM_HPS", "{}"))) if not argv else {}
    found = {name: value if isinstance(value, str) else json.dumps(value) for name, value in pairs.items()}
    if len(argv) % 2 or any(not name.startswith("--") for name in argv[::2]):
        raise UsageError(f"expected --name value for each hyperparameter, got {' '.join(argv)}")
    found |= {name.removeprefix("--"): value for name, value in zip(argv[::2], argv[1::2], strict=True)}
    return {name.replace("-", "_"): value for name, value in found.items()}


def arguments(given: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """The command line of training.train. Raises UsageError for a value that makes no sense, and without data."""
    values = dict(given)
    out = values.pop("checkpoints", CHECKPOINTS)
    if {"out", "resume", "resume_if_there"} & values.keys():
        raise UsageError(
            "out, resume and resume_if_there are set here: the training goes on from `checkpoints`"
        )
    found = ["--data", *descriptions(values.pop("data", ""), environ), "--out", out, "--resume-if-there"]
    kinds = _kinds(TrainConfig)
    for name, value in sorted(values.items()):
        option, kind = name.replace("_", "-"), kinds.get(name)
        if get_origin(kind) is tuple:
            found += [f"--{option}", *several(name, value)]
        elif kind not in (bool, bool | None):
            found += [f"--{option}", value]
        elif value.lower() not in ("true", "false"):
            raise UsageError(f"hyperparameter {name} is {value!r}: expected true or false")
        else:
            found.append(f"--{option}" if value.lower() == "true" else f"--no-{option}")
    return found


def several(name: str, value: str) -> list[str]:
    """The values of an option that takes several: a list, or words as in a shell. Raises UsageError."""
    try:
        return [str(one) for one in _list(value)] if value.lstrip().startswith("[") else shlex.split(value)
    except (ValueError, SyntaxError, TypeError) as error:
        raise UsageError(
            f"hyperparameter {name} is {value!r}: expected a list such as [1, 20], or 1 20 ({error})"
        ) from None


def _list(text: str) -> Any:
    try:
        return json.loads(text)  # ModelTrainer's
    except json.JSONDecodeError:
        return ast.literal_eval(text)  # the toolkit's, which prints lists as Python does


def descriptions(named: str, environ: Mapping[str, str]) -> list[str]:
    """Paths of the dataset descriptions. Raises UsageError where a channel or a file is not there."""
    channels = {
        name: Path(environ[f"SM_CHANNEL_{name.upper()}"])
        for name in json.loads(environ.get("SM_CHANNELS", "[]"))
    }
    if not named:
        found = [folder / DESCRIPTION for folder in channels.values()]
        found = [file for file in found if file.is_file()]
    else:
        parts = [name.partition("/") for name in several("data", named)]
        if unknown := [channel for channel, _, _ in parts if channel not in channels]:
            raise UsageError(f"data names channels {unknown}; this job has {sorted(channels)}")
        found = [channels[channel] / (file or DESCRIPTION) for channel, _, file in parts]
    if missing := [str(file) for file in found if not file.is_file()]:
        raise UsageError(f"no such dataset description: {', '.join(missing)}")
    if not found:
        raise UsageError(
            f"no channel of {sorted(channels)} has a {DESCRIPTION}: name the file, data=CHANNEL/FILE"
        )
    return [str(file) for file in found]


def torchrun(argv: Sequence[str], environ: Mapping[str, str]) -> list[str] | None:
    """The command that starts all processes, if SageMaker has not done so and there are to be several."""
    hosts: list[str] = json.loads(environ.get("SM_HOSTS", '["algo-1"]'))
    num_processes = max(1, int(environ.get("SM_NUM_GPUS", 0)))
    if "WORLD_SIZE" in environ or len(hosts) * num_processes == 1:
        return None
    several = ["--master-addr", hosts[0], "--master-port", PORT]
    several += ["--node-rank", str(hosts.index(environ.get("SM_CURRENT_HOST", hosts[0])))]
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(hosts)),
        "--nproc-per-node", str(num_processes), *(several if len(hosts) > 1 else []), str(Path(__file__)), *argv,
    ]  # fmt: skip


def main(config: TrainConfig) -> None:
    """Train, and put what is to be kept where SageMaker packs it."""
    train.main(config)
    folder = os.environ.get("SM_MODEL_DIR")
    if folder and int(os.environ.get("RANK", 0)) == 0:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(config.out / name, folder)


def _kinds(options: type) -> dict[str, Any]:
    """Types of the options by name, those of groups included."""
    hints = get_type_hints(options)
    found: dict[str, Any] = {}
    for field in fields(options):
        if is_dataclass(kind := hints[field.name]):
            found |= _kinds(kind)  # type: ignore[arg-type]
        else:
            found["json" if field.name == "as_json" else field.name] = kind
    return found


def run(argv: list[str]) -> None:
    """The whole script."""
    try:
        require_torch(torch.__version__)
        if command := torchrun(argv, os.environ):
            os.execv(command[0], command)  # the same process, so that signals reach torchrun
        sys.argv[1:] = arguments(hyperparameters(argv, os.environ), os.environ)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    cli.run(TrainConfig, main)


if __name__ == "__main__":
    run(sys.argv[1:])
