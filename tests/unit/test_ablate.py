"""Recipes: what is read, what is trained, and the table of what came out. Trainings are stood in for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from deploy.processes import wait_until
from segserve.errors import UsageError
from training import ablate
from training.ablate import AblateConfig
from training.config import TrainConfig

RECIPE = """
[base]
data = ["a.toml", "b.toml"]
pretrained = true
ema = 0.9
[variations.no_ema]
ema = 0.0
[variations.scratch]
pretrained = false
"""
MIOU = {"base": (0.5, 0.7, 0.6), "no_ema": (0.1, 0.2, 0.65), "scratch": (0.3, None, 0.2)}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """In the place of training.train: writes what it would; `scratch` fails. Returns the command lines."""
    commands: list[list[str]] = []

    def fake(command: list[str], **_: bool) -> int:
        commands.append(command[3:])
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True)
        lines = [
            {
                "epoch": number, "miou": miou, "allacc": 0.9, "seconds": 30.0,
                "classes": {"wall": {"iou": miou}, "floor": {"iou": None}},
            }
            for number, miou in enumerate(MIOU[out.name], 1)
        ]  # fmt: skip
        lines.append({"epoch": 4, "seconds": 30.0})  # an epoch that --validate-every leaves out
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if out.name != "scratch":
            (out / "model.safetensors").touch()
        return int(out.name == "scratch")

    monkeypatch.setattr(ablate, "train", fake)
    return commands


def test_each_training_gets_its_options_and_the_table_their_results(
    recipe: Path, tmp_path: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert ablate.main(AblateConfig(recipe, out, root=tmp_path, json=True)) == 1
    end = ["--resume-if-there", "--root", str(tmp_path)]
    data = ["--data", "a.toml", "b.toml"]
    assert trained == [
        [*data, "--pretrained", "--ema", "0.9", "--out", str(out / "base"), *end],
        [*data, "--pretrained", "--ema", "0.0", "--out", str(out / "no_ema"), *end],
        [*data, "--no-pretrained", "--ema", "0.9", "--out", str(out / "scratch"), *end],
    ]
    said = capsys.readouterr()
    assert "scratch failed" in said.err
    rows = json.loads(said.out)
    assert [(r["name"], r["miou"], r["epoch"], round(r["points"], 6), r["minutes"]) for r in rows] == [
        ("base", 0.7, 2, 0.0, 2.0), ("no_ema", 0.65, 3, -5.0, 2.0),
    ]  # fmt: skip
    assert json.loads((out / "table.json").read_text()) == rows
    assert "| no_ema | 65.0 | -5.0 | 65.0 |  | 3 of 4 | 2 |" in (out / "table.md").read_text()


def test_what_a_training_tells_is_not_in_the_way_of_json(capfd: pytest.CaptureFixture[str]) -> None:
    speaking = [sys.executable, "-c", "print('epoch 1')"]
    assert ablate.train(speaking, as_json=True) == 0
    assert capfd.readouterr() == ("", "epoch 1\n")
    assert ablate.train(speaking) == 0
    assert capfd.readouterr() == ("epoch 1\n", "")


def test_variations_may_have_other_classes_and_one_without_scores_is_told(tmp_path: Path) -> None:
    rows = [
        {"name": name, "miou": 0.5, "points": None, "iou": iou, "epoch": 1, "epochs": 1, "minutes": 1.0}
        for name, iou in (("base", {"wall": 0.5, "chair": 0.25}), ("joined", {"wall": 0.75, "seat": 0.125}))
    ]
    lines = ablate.markdown(rows).splitlines()
    assert lines[0] == "| | mIoU % | points | wall | chair | seat | best epoch | minutes |"
    assert lines[2:] == [
        "| base | 50.0 |  | 50.0 | 25.0 |  | 1 of 1 | 1 |", "| joined | 50.0 |  | 75.0 |  | 12.5 | 1 of 1 | 1 |",
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "seconds": 3.0}\n')
    with pytest.raises(UsageError, match="has no epoch that was scored"):
        ablate.row("base", {}, tmp_path)


def test_the_time_is_that_of_interrupted_epochs_too() -> None:
    """Their `seconds` are only those since the training went on."""
    lines = [{"seconds": 60.0, "cost": {"hours": 0.5}}, {"seconds": 60.0, "cost": {"hours": 2.0}}]
    assert ablate.minutes(lines) == 120
    assert ablate.minutes([{"seconds": 60.0}] * 2) == 2  # from before costs were counted


def test_sigterm_reaches_the_training_and_the_others_are_not_begun(
    recipe: Path, tmp_path: Path, repo_root: Path
) -> None:
    """In the place of a training: it saves for a while, says so, and ends as training.train does."""
    script = tmp_path / "stand_in.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.3); pathlib.Path(sys.argv[1], 'saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True); (out / 'begun').touch()\n"
        "time.sleep(60)\n"
    )
    out = tmp_path / "out"
    run = (
        "import pathlib, sys\nfrom training import ablate\nfrom segserve import cli\n"
        f"ablate.command = lambda _, out, root: [sys.executable, {str(script)!r}, str(out)]\n"
        "cli.run(ablate.AblateConfig, ablate.main)"
    )
    command = [sys.executable, "-c", run, str(recipe), "--out", str(out)]
    with subprocess.Popen(command, cwd=repo_root, stderr=subprocess.PIPE, text=True) as process:
        try:
            begun = (out / "base" / "begun").exists
            assert wait_until(lambda: begun() or process.poll() is not None, 60)
            assert process.poll() is None
            process.terminate()
            told = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 75, told
    assert "stopped by SIGTERM, the training ended with exit code 75. Give the same command again" in told
    assert (out / "base" / "saved").exists()
    assert not (out / "no_ema").exists()


def test_what_is_finished_is_not_trained_again(
    recipe: Path, tmp_path: Path, trained: list[list[str]]
) -> None:
    config = AblateConfig(recipe, tmp_path / "out", only=("no_ema",))
    assert ablate.main(config) == 0
    assert ablate.main(config) == 0
    assert len(trained) == 1
    [row] = json.loads((tmp_path / "out" / "table.json").read_text())
    assert row["points"] is None  # there is no base yet


def test_results_of_other_options_are_not_taken_for_these(
    recipe: Path, tmp_path: Path, trained: list[list[str]]
) -> None:
    config = AblateConfig(recipe, tmp_path / "out", only=("base",))
    assert ablate.main(config) == 0
    recipe.write_text(RECIPE.replace("ema = 0.9", "ema = 0.8"))
    with pytest.raises(UsageError, match=r"base was trained with other options \(ema was 0\.9, is 0\.8\)"):
        ablate.main(config)
    (tmp_path / "out" / "base.options.json").unlink()
    with pytest.raises(UsageError, match="options that are not known"):
        ablate.main(config)
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected"), ("base = 3", "expected"), ("[base]\nout = 'x'", "is set here"), ("[bas", "no recipe"),
        ("[base]\nema = 0.9\n[variations.same]\nema = 0.9", "changes nothing"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_told(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        ablate.read(path)


def test_names_that_are_not_there_are_told(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the recipe has base, no_ema, scratch"):
        ablate.main(AblateConfig(recipe, tmp_path / "out", only=("typo",)))


@pytest.mark.parametrize("name", ["camvid", "camvid_choices", "confusions", "rooms"])
def test_shipped_recipes_are_options_that_training_takes(name: str, repo_root: Path, tmp_path: Path) -> None:
    for options in ablate.read(repo_root / "training" / "recipes" / f"{name}.toml").values():
        arguments: list[Any] = ablate.command(options, tmp_path, None)[3:]
        config = tyro.cli(TrainConfig, args=arguments)
        assert config.preset == "pspnet_lite0"
