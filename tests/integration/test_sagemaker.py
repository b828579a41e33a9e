"""The SageMaker entry point, called as its training toolkit and its ModelTrainer call scripts; nothing of AWS is here.

From aws/sagemaker-training-toolkit (environment.py to_env_vars, mapping.py to_cmd_args, torch_distributed.py): the
working directory is the code's, hyperparameters come as `--name value` in the order of their names, values as str() of
what they were in JSON, so True; ModelTrainer writes JSON, so true.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from segserve.errors import UsageError
from tests.integration.painted import environment, metrics
from training import sagemaker_launch
from training.checkpoint import load_model
from training.config import TrainConfig
from training.sagemaker_entry import arguments, hyperparameters, require_torch, run, torchrun
from training.sagemaker_launch import TORCH, LaunchConfig, plan, stage

pytestmark = pytest.mark.timeout(900)  # whole trainings, which are patient with a busy machine

HYPERPARAMETERS: dict[str, Any] = {
    "batch_size": 4, "crop_height": 33, "crop_width": 49, "epochs": 1, "precision": "fp32", "preset": "pspnet_lite0",
    "pretrained": False, "save_every_steps": 1, "workers": 0,
}  # fmt: skip


def variables(painted: Path, opt_ml: Path, **others: Any) -> dict[str, str]:
    """SM_* as the toolkit makes them on one machine without a GPU."""
    values = {
        "hosts": ["algo-1"], "current_host": "algo-1", "num_gpus": 0, "num_cpus": 2, "hps": HYPERPARAMETERS,
        "channels": ["code", "rooms"], "channel_rooms": str(painted.parent), "channel_code": str(opt_ml / "code"),
        "model_dir": str(opt_ml / "model"), "output_data_dir": str(opt_ml / "output" / "data"), "log_level": 20,
        "module_name": "training/sagemaker_entry",
    }  # fmt: skip
    return {
        f"SM_{name.upper()}": value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in (values | others).items()
    }


def command_line(values: dict[str, Any]) -> list[str]:
    return [word for name in sorted(values) for word in (f"--{name}", str(values[name]))]


def test_a_job_with_torch_distributed_and_one_that_finds_its_checkpoints(
    painted: Path, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    """Two processes by SageMaker's torchrun; then, as after an interruption, one without it."""
    code = tmp_path / "code"
    code.mkdir()
    stage(code)
    given = HYPERPARAMETERS | {"checkpoints": str(tmp_path / "checkpoints")}
    script = ["training/sagemaker_entry.py", *command_line(given)]
    distributed = [
        "-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", "2", "--master-port", str(free_ports(1)[0])
    ]  # fmt: skip
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    for number, launcher in enumerate((distributed, [])):
        job = tmp_path / str(number)
        done = subprocess.run(
            [sys.executable, *launcher, *script], cwd=code, env=env | variables(painted, job), capture_output=True,
            text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("epoch 1:" in done.stdout) == (number == 0)  # the second had nothing left to do
        assert sorted(os.listdir(job / "model")) == ["metrics.jsonl", "model.json", "model.safetensors"]
        _, meta = load_model(job / "model" / "model.safetensors")
        assert (meta.classes, meta.epoch) == (("wall", "floor", "box"), 1)
        assert metrics(job / "model")[0]["cost"]["devices"] == 2


def test_hyperparameters_become_options(painted: Path, tmp_path: Path) -> None:
    environ = variables(painted, tmp_path)
    expected = [
        "--data", str(painted), "--out", "/opt/ml/checkpoints", "--resume-if-there", "--base-lr", "0.01",
        "--deterministic", "--preset", "pspnet18", "--no-pretrained",
    ]  # fmt: skip
    for yes, no in (("True", "False"), ("true", "false")):
        argv = ["--base-lr", "0.01", "--deterministic", yes, "--preset", "pspnet18", "--pretrained", no]
        assert arguments(hyperparameters(argv, environ), environ) == expected
    assert hyperparameters([], environ)["batch_size"] == "4"  # from SM_HPS
    assert hyperparameters([], environ)["pretrained"] == "false"
    named = arguments({"data": "rooms/dataset.toml rooms"}, environ)
    assert named[:3] == ["--data", str(painted), str(painted)]


def test_options_with_several_values(painted: Path, tmp_path: Path) -> None:
    """As people write them, as ModelTrainer and as the toolkit do; what training.train makes of them."""
    environ = variables(painted, tmp_path)
    for repeat, data in (
        ("1 20", "rooms rooms/dataset.toml"),
        ("[1, 20]", '["rooms", "rooms/dataset.toml"]'),
        ("[1,20]", "['rooms', 'rooms/dataset.toml']"),
    ):
        found = arguments({"repeat": repeat, "data": data, "align_corners": "False"}, environ)
        config = tyro.cli(TrainConfig, args=found)
        assert (config.repeat, config.data, config.align_corners) == ((1, 20), (painted, painted), False)
    assert arguments(hyperparameters([], {"SM_HPS": '{"repeat":[1,20]}'}), environ)[-3:] == [
        "--repeat",
        "1",
        "20",
    ]
    spaced = painted.with_name("two words.toml")
    spaced.write_bytes(painted.read_bytes())
    assert arguments({"data": "'rooms/two words.toml'"}, environ)[:2] == ["--data", str(spaced)]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--pretrained"], "expected --name value"),
        (["--pretrained", "yes"], "pretrained is 'yes': expected true or false"),
        (["--data", "kitchens/dataset.toml"], r"channels \['kitchens'\]; this job has \['code', 'rooms'\]"),
        (["--data", "rooms/none.toml"], "no such dataset description"),
        (["--data", "code"], "no such dataset description"),
        (["--out", "/tmp"], "set here"),
        (["--repeat", "[1, 20"], r"repeat is '\[1, 20': expected a list such as \[1, 20\], or 1 20"),
        (["--data", "'rooms"], 'data is "\'rooms": expected a list .*No closing quotation'),
    ],
)
def test_what_makes_no_sense(painted: Path, tmp_path: Path, argv: list[str], message: str) -> None:
    environ = variables(painted, tmp_path)
    with pytest.raises(UsageError, match=message):
        arguments(hyperparameters(argv, environ), environ)


def test_alone_it_starts_torchrun_where_there_are_gpus_or_hosts(painted: Path, tmp_path: Path) -> None:
    argv = ["--epochs", "2"]
    assert torchrun(argv, variables(painted, tmp_path)) is None
    gpus = torchrun(argv, variables(painted, tmp_path, num_gpus=4))
    assert gpus is not None
    assert gpus[1:7] == ["-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "4"]
    assert gpus[-2:] == argv
    assert "--master-addr" not in gpus
    hosts = variables(painted, tmp_path, hosts=["algo-1", "algo-2"], current_host="algo-2", num_gpus=8)
    both = " ".join(torchrun(argv, hosts) or [])
    assert "--nnodes 2 --nproc-per-node 8 --master-addr algo-1 --master-port 7777 --node-rank 1 " in both
    assert torchrun(argv, hosts | {"WORLD_SIZE": "16"}) is None  # SageMaker's own torchrun was there first


def test_an_image_with_an_older_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repo_root: Path
) -> None:
    for version in ("2.13.0+cu130", "2.14.1", "3.0.0a0+git1"):
        require_torch(version)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu130")
    with pytest.raises(SystemExit) as ended:
        run(["--epochs", "2"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: this image has PyTorch 2.9.1+cu130, expected 2.13 or later: give training.sagemaker_launch another "
        "--image\n"
    )
    # what is asked for is what this project is tested with
    assert f"\ntorch=={TORCH[0]}.{TORCH[1]}." in (repo_root / "constraints.txt").read_text(encoding="utf-8")
    assert f"PyTorch {TORCH[0]}.{TORCH[1]} or later" in (sagemaker_launch.__doc__ or "")


def launch(**others: Any) -> LaunchConfig:
    values = {
        "data": ("s3://b/rooms",), "checkpoints": "s3://b/checkpoints", "role": "arn:aws:iam::1:role/r",
        "image": "image",
        "options": ("epochs=50", "save_every_steps=200"),
    }  # fmt: skip
    return LaunchConfig(**(values | others))


def test_launch_dry_run_shows_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    sagemaker_launch.main(launch(spot=True, hours=2, wait_hours=1, dry_run=True, instances=2))
    told = json.loads(capsys.readouterr().out)
    assert told == plan(launch(spot=True, hours=2, wait_hours=1, instances=2))
    assert told["compute"] == {
        "instance_type": "ml.g5.xlarge", "instance_count": 2, "enable_managed_spot_training": True,
    }  # fmt: skip
    assert told["stopping_condition"] == {"max_runtime_in_seconds": 7200, "max_wait_time_in_seconds": 10800}
    assert told["hyperparameters"] == {"data": "data0", "epochs": "50", "save_every_steps": "200"}
    assert told["checkpoint_config"]["local_path"] == "/opt/ml/checkpoints"
    assert told["input_data"] == {"data0": "s3://b/rooms"}
    assert any(line.startswith("safetensors==") for line in told["source"]["requirements"])


def test_sources_keep_their_order_whatever_sagemaker_makes_of_it(tmp_path: Path) -> None:
    """Its toolkit sorts channels by name."""
    sources = tuple(f"s3://b/{number}" for number in range(12))
    planned = plan(launch(data=sources, options=(f"repeat={' '.join('1' * 11)} 20", "epochs=1")))
    environ = {"SM_CHANNELS": json.dumps(sorted(planned["input_data"]))}
    for name in planned["input_data"]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "dataset.toml").touch()
        environ[f"SM_CHANNEL_{name.upper()}"] = str(folder)
    made = arguments(planned["hyperparameters"], environ)
    assert made[: made.index("--out")] == [
        "--data", *(str(tmp_path / f"data{number}" / "dataset.toml") for number in range(12))
    ]  # fmt: skip
    assert plan(launch(options=("data=data0/kitchens.toml",)))["hyperparameters"] == {
        "data": "data0/kitchens.toml"
    }


def test_launch_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sagemaker", None)
    with pytest.raises(UsageError, match="pip install 'sagemaker>=3' tyro"):
        sagemaker_launch.main(launch())
    with pytest.raises(UsageError, match="expected s3://"):
        launch(data=("/data",))
    with pytest.raises(UsageError, match="would lose whole epochs"):
        launch(spot=True, options=())
    with pytest.raises(UsageError, match="expected name=value"):
        launch(options=("epochs",))
