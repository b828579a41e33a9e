"""The training command: it learns, writes what it says, goes on after a kill, and refuses what makes no sense."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from segserve.errors import CheckFailed, CheckpointError, UsageError
from tests import tiny_pspnet
from tests.integration.painted import CLASSES, config, environment, metrics, options, paint, training_command
from training import distributed, pspnet, train
from training.checkpoint import load_checkpoint, load_model
from training.config import TrainConfig
from training.data import EvalSamples, load_dataset
from training.distributed import Processes
from training.machines import Machines
from training.metrics import ConfusionMatrix
from training.options import WeightOptions
from training.run import Run

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.timeout(900),  # whole trainings, which are patient with a busy machine
]


def six_epochs(painted: Path, out: Path) -> TrainConfig:
    return config(
        painted,
        out=out,
        preset="pspnet18",
        epochs=6,
        base_lr=0.001,
        dropout=0.0,
        input_height=65,
        input_width=81,
    )


@pytest.fixture(scope="module")
def trained(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of 6 epochs."""
    out = tmp_path_factory.mktemp("trained")
    train.main(six_epochs(painted, out))
    return out


def test_it_learns(trained: Path) -> None:
    lines = metrics(trained)
    assert [line["epoch"] for line in lines] == list(range(1, 7))
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]
    assert max(line["miou"] for line in lines) > 0.35  # "all is wall" gives less than 0.2
    assert all(line["loss"] == pytest.approx(line["main_loss"] + 0.4 * line["aux_loss"]) for line in lines)
    assert list(lines[0]["classes"]) == list(CLASSES)


def test_learning_rate_follows_the_poly_schedule(trained: Path) -> None:
    steps = 2  # an epoch: 8 images, 4 a batch
    expected = [0.001 * (1 - (steps * epoch - 1) / (6 * steps)) ** 0.9 for epoch in range(1, 7)]
    assert [line["learning_rate"] for line in metrics(trained)] == pytest.approx(expected)


def test_best_is_the_model_of_the_best_epoch(trained: Path, painted: Path) -> None:
    """Evaluated here once more, image by image, it scores what metrics.jsonl says."""
    model, meta = load_model(trained / "best.safetensors")
    best = max(metrics(trained), key=lambda line: line["miou"])
    assert meta.epoch == best["epoch"]
    assert meta.metrics["miou"] == best["miou"]
    val = load_dataset(painted, "val")
    matrix = ConfusionMatrix(len(CLASSES), val.ignore_label)
    for image, label in EvalSamples(val, meta.input_height, meta.input_width, meta.mean, meta.std):  # type: ignore[attr-defined]
        with torch.no_grad():
            logits = torch.nn.functional.interpolate(
                model(image[None]), label.shape, mode="bilinear", align_corners=meta.align_corners
            )
        matrix.update(label.numpy(), logits[0].argmax(0).numpy())
    assert matrix.scores().miou == pytest.approx(best["miou"], abs=2e-3)


def test_checkpoints_say_where_they_come_from(trained: Path) -> None:
    _, meta = load_checkpoint(trained / "last.safetensors")
    assert (meta.preset, meta.classes, meta.ignore_label) == ("pspnet18", CLASSES, 255)
    assert (meta.mean, meta.std) == pspnet.normalisation("pspnet18")
    assert (meta.input_height, meta.input_width, meta.epoch) == (65, 81, 6)
    assert meta.provenance["datasets"] == "painted (8 images)"
    assert '"seed": 0' in meta.provenance["options"]
    assert meta.metrics["best_miou"] == max(line["miou"] for line in metrics(trained))


def test_shipped_model_is_the_best_one_in_half_precision(trained: Path) -> None:
    shipped, meta = load_model(trained / "model.safetensors")
    best, _ = load_model(trained / "best.safetensors")
    assert not hasattr(shipped, "aux")
    images = torch.randn(2, 3, 65, 81, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = best(images), shipped(images)
    assert (got - expected).abs().max() < 0.01 * expected.abs().max()
    assert (got.argmax(1) == expected.argmax(1)).float().mean() > 0.99
    assert (trained / "model.safetensors").stat().st_size < 0.5 * (
        trained / "best.safetensors"
    ).stat().st_size
    assert meta.epoch == load_checkpoint(trained / "best.safetensors")[1].epoch


def epochs_saved(out: Path) -> int:
    copy = out / "last.json"
    return int(json.loads(copy.read_text(encoding="utf-8"))["epoch"]) if copy.exists() else 0


def test_killed_and_resumed_equals_undisturbed(painted: Path, tmp_path: Path, repo_root: Path) -> None:
    """With dropout and workers, because their randomness must be taken up again as well."""
    train.main(config(painted, out=tmp_path / "whole", epochs=3, dropout=0.3, workers=1))
    chosen = options(painted, tmp_path / "killed", epochs=3, dropout=0.3, workers=1)
    command = [*training_command(), *chosen]
    with subprocess.Popen(command, cwd=repo_root, env=environment(), stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 200
            while epochs_saved(tmp_path / "killed") < 1 and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.returncode == -9  # it did not come to its end
    resumed = subprocess.run(
        [*command, "--resume"], cwd=repo_root, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1:" not in resumed.stdout
    assert "epoch 3:" in resumed.stdout
    assert "nothing is left" not in resumed.stdout

    def numbers(out: str) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in line.items() if name not in ("seconds", "cost")}
            for line in metrics(tmp_path / out)
        ]

    assert numbers("killed") == numbers("whole")
    for name in ("last", "best", "model"):
        whole, killed = (
            safetensors.torch.load_file(tmp_path / out / f"{name}.safetensors") for out in ("whole", "killed")
        )
        assert whole.keys() == killed.keys()
        same = whole.keys() - {"train/progress/spent"}  # time is not
        assert all(torch.equal(whole[key], killed[key]) for key in same)


def test_resuming_drops_a_line_whose_checkpoint_was_never_written(
    trained: Path, painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished training resumed: nothing is trained again, and a stray line is gone."""
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 7}\n')
    before = (out / "last.safetensors").read_bytes()
    capsys.readouterr()
    train.main(replace(six_epochs(painted, out), resume=True, as_json=True))
    told = capsys.readouterr()
    assert json.loads(told.out) == metrics(trained)[-1]
    assert "all epochs (--epochs 6) were made before, nothing is left to train" in " ".join(told.err.split())
    assert metrics(out) == metrics(trained)
    assert (out / "last.safetensors").read_bytes() == before


def test_what_cannot_be_resumed(trained: Path, painted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already holds a training"):
        train.main(config(painted, out=trained))
    for name in ("model.safetensors", "best.safetensors"):  # the rest was deleted, to save space
        kept = tmp_path / name / name
        kept.parent.mkdir()
        kept.write_bytes(b"days of work")
        with pytest.raises(UsageError, match=rf"holds {name} of a training, which this one would replace"):
            train.main(config(painted, out=kept.parent))
        with pytest.raises(UsageError, match="would replace"):  # nor by what is started again by itself
            train.main(config(painted, out=kept.parent, machines=Machines(resume_if_there=True)))
        assert [path.name for path in kept.parent.iterdir()] == [name]
    with pytest.raises(UsageError, match=r"other options: .*epochs was 6, is 2"):
        train.main(config(painted, out=trained, resume=True))
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train.main(config(painted, out=tmp_path / "nothing", resume=True))


def test_resuming_in_another_precision_is_refused(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options say "auto" both times; the hardware is another."""
    chosen = config(painted, out=tmp_path, precision="auto")
    datasets = [load_dataset(painted, "train")]
    monkeypatch.setattr(distributed, "compute_dtype", lambda *_: torch.float32)
    Run(chosen, Processes(0, 1, CPU), datasets).save(1, {"miou": 0.5}, is_best=False)
    monkeypatch.setattr(distributed, "compute_dtype", lambda *_: torch.bfloat16)
    with pytest.raises(UsageError, match=r"trained in float32, here --precision auto means bfloat16"):
        Run(chosen, Processes(0, 1, CPU), datasets).resume()


def test_float64_is_resumed_bit_for_bit(painted: Path, tmp_path: Path) -> None:
    chosen = config(painted, out=tmp_path, precision="fp64")
    datasets = [load_dataset(painted, "train")]
    run, again = (Run(chosen, Processes(0, 1, CPU), datasets) for _ in range(2))
    run.set_learning_rate(0)
    numbers = torch.Generator().manual_seed(0)
    run.step(
        torch.randn(2, 3, 33, 49, generator=numbers), torch.randint(0, 3, (2, 33, 49), generator=numbers)
    )
    run.save(1, {"miou": 0.5}, is_best=False)
    again.resume()
    mine, theirs = run.model.state_dict(), again.model.state_dict()
    assert any((tensor != tensor.float()).any() for tensor in mine.values())
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_datasets_are_joined(painted: Path, tmp_path: Path) -> None:
    """8 + 3 images, 11 a batch: only together they fill one."""
    second = paint(tmp_path / "second", train=3, val=1, seed=1)
    out = tmp_path / "out"
    train.main(config(painted, second, out=out, batch_size=11, epochs=1))
    assert len(metrics(out)) == 1
    with pytest.raises(UsageError, match="11 training images do not fill one batch of 12"):
        train.main(config(painted, second, out=tmp_path / "none", batch_size=12))
    with pytest.raises(UsageError, match=r"1 training images .* batch of 2: give more .* \(--repeat\)"):
        train.main(config(painted, out=tmp_path / "none", limit=1, batch_size=2))
    foreign = paint(tmp_path / "foreign", train=1, val=1, classes=("wall", "floor", "lamp"))
    with pytest.raises(UsageError, match=r"foreign has classes .*they must be equal"):
        train.main(config(painted, foreign, out=tmp_path / "none"))


def test_divergence_ends_with_the_reason(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="start anew with another --out, a lower --base-lr"):
        train.main(config(painted, out=tmp_path / "out", base_lr=1e30, epochs=5))


def test_a_loss_that_is_no_number_spoils_nothing_that_was_saved(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second step of the second epoch, of two steps each."""
    step, steps = Run.step, 0

    def breaks(self: Run, *batch: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return step(self, *batch) * (math.nan if steps == 4 else 1)

    monkeypatch.setattr(Run, "step", breaks)
    out = tmp_path / "out"
    said = r"the loss became nan in epoch 2: .*--pretrained-from \S+/out/best\.safetensors in place of --pretrained, a"
    with pytest.raises(CheckFailed, match=said):
        train.main(config(painted, out=out, epochs=3))
    assert [line["epoch"] for line in metrics(out)] == [1]
    state, meta = load_checkpoint(out / "last.safetensors")
    assert meta.epoch == 1
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_weights_that_are_no_numbers_are_not_saved(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    """The gradients of the last step of the second epoch overflowed; its loss was still one."""
    tiny_pspnet.register(monkeypatch)
    step, steps = Run.step, 0

    def overflows(self: Run, *batch: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        losses = step(self, *batch)
        if steps == 4:
            spoilt = self.average.model if self.average is not None else self.model
            next(spoilt.parameters()).detach()[0] = math.inf
        return losses

    monkeypatch.setattr(Run, "step", overflows)
    weights, out = WeightOptions(ema=ema), tmp_path / "out"
    chosen = config(painted, out=out, preset=tiny_pspnet.PRESET, epochs=3, weights=weights)
    with pytest.raises(
        CheckFailed, match="the weights became inf or nan in epoch 2: start anew with another --out"
    ):
        train.main(chosen)
    state, meta = load_checkpoint(out / "last.safetensors")
    assert meta.epoch == 1
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
