"""Trainings that are resumed in a folder where something is missing, or on other images than they began with."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from segserve.errors import UsageError
from tests import tiny_pspnet
from tests.integration.painted import config, environment, metrics, options, paint
from tests.integration.tiny_training import train_until_killed
from training import same_images, train
from training.checkpoint import load_checkpoint, load_training, save_checkpoint
from training.config import TrainConfig
from training.metrics import ConfusionMatrix, Scores

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A description of images that a test may change."""
    return paint(tmp_path / "own")


@pytest.fixture
def begun(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A training of two epochs that was killed in the second."""
    tiny_pspnet.register(monkeypatch)
    chosen = config(own, out=tmp_path / "out", preset=tiny_pspnet.PRESET)
    train_until_killed(chosen, 3)
    return replace(chosen, resume=True)


def test_the_checkpoint_alone_is_enough(begun: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of the epochs that are left is shipped, even if the one that is lost was better."""
    for name in ("metrics.jsonl", "best.safetensors", "best.json"):
        (begun.out / name).unlink()
    poor(monkeypatch)
    train.main(begun)
    assert [line["epoch"] for line in metrics(begun.out)] == [2]
    _, best = load_checkpoint(begun.out / "best.safetensors")
    assert (best.epoch, best.metrics["miou"]) == (2, 0.01)
    assert load_checkpoint(begun.out / "model.safetensors")[1].epoch == 2


def test_a_best_model_of_another_training_is_not_shipped(
    begun: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, meta = load_checkpoint(begun.out / "best.safetensors")
    other = replace(meta, epoch=9, metrics=meta.metrics | {"best_miou": 0.99})
    save_checkpoint(begun.out / "best.safetensors", state, other)
    poor(monkeypatch)
    train.main(begun)
    assert load_checkpoint(begun.out / "model.safetensors")[1].epoch == 2


def test_the_best_model_so_far_is_kept(begun: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    poor(monkeypatch)
    train.main(begun)
    assert load_checkpoint(begun.out / "model.safetensors")[1].epoch == 1
    assert [line["epoch"] for line in metrics(begun.out)] == [1, 2]


def poor(patch: pytest.MonkeyPatch) -> None:
    """Have every further epoch score less than a real one."""
    real = ConfusionMatrix.scores

    def scores(matrix: ConfusionMatrix) -> Scores:
        return replace(real(matrix), miou=0.01)

    patch.setattr(ConfusionMatrix, "scores", scores)


def test_a_line_that_a_kill_broke_off_is_dropped(begun: TrainConfig) -> None:
    with (begun.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 2, "lo')
    train.main(begun)
    assert [line["epoch"] for line in metrics(begun.out)] == [1, 2]


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_images_are_refused(begun: TrainConfig, own: Path, split: str) -> None:
    for kind in ("images", "labels"):
        (own.parent / split / kind / "1.png").rename(own.parent / split / kind / "11.png")
    with pytest.raises(UsageError, match=r"trained on other images: .*own \(8 images\).*restore the files"):
        train.main(begun)
    # checkpoints from before images were recorded
    last = begun.out / "last.safetensors"
    (state, meta), training = load_checkpoint(last, cast=False), load_training(last)
    provenance = {name: value for name, value in meta.provenance.items() if name != same_images.KEY}
    assert len(provenance) == len(meta.provenance) - 1
    save_checkpoint(last, state, replace(meta, provenance=provenance), training=training)
    train.main(begun)
    assert [line["epoch"] for line in metrics(begun.out)] == [1, 2]


def test_labels_that_say_something_else_are_refused(begun: TrainConfig, own: Path) -> None:
    text = own.read_text()
    own.write_text(f"ignore_values = [200]\n{text}")
    with pytest.raises(UsageError, match=r"label_values was .*, is .*200.*: restore ignore_values"):
        train.main(begun)
    own.write_text(text)
    train.main(begun)
    assert [line["epoch"] for line in metrics(begun.out)] == [1, 2]


def test_images_may_have_moved(begun: TrainConfig, own: Path, tmp_path: Path) -> None:
    own.parent.rename(tmp_path / "moved")
    own.parent.mkdir()
    (tmp_path / "moved" / own.name).rename(own)
    train.main(replace(begun, root=tmp_path / "moved"))
    assert [line["epoch"] for line in metrics(begun.out)] == [1, 2]


def test_machines_with_other_images_are_refused(own: Path, tmp_path: Path, repo_root: Path) -> None:
    """The second lacks one, as with disks of their own."""
    paint(tmp_path / "second", train=7)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "tests.integration.tiny_training", *options(own, tmp_path / "out")],
        cwd=repo_root, env=environment() | {"ROOT_OF_1": str(tmp_path / "second")}, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode != 0
    assert "error: the processes do not have the same images; this one has " in done.stderr
    assert not (tmp_path / "out").exists()
