"""What does each choice of a recipe bring? One training for the recipe, one for each variation, and a table.

    python -m training.ablate training/recipes/confusions.toml --out runs/confusions
    python -m training.ablate training/recipes/camvid.toml --out runs/camvid --root DATA/camvid --only base

A recipe is TOML: [base] has options of training.train, and each [variations.NAME] those that it changes. What is
finished is not trained again, what was interrupted goes on, so the same command can be given until all is done; a
recipe that was changed since needs another OUT. There appear a folder for each training, its options, table.md and
table.json: the best mIoU on the split "val", its difference to the base in points, the IoU of the classes at that
epoch, and the time. Exit code 1: a training failed; the others are in the table. 75: stopped by SIGTERM, which the
training under way got too.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from segserve.cli import run
from segserve.errors import Interrupted, UsageError
from training.checkpoint import SHIPPED
from training.interruption import SIGNALS

BASE = "base"
METRICS, TABLE = "metrics.jsonl", "table"
GO_ON = "Give the same command again: it goes on"
NOT_IN_RECIPES = {"out", "resume", "resume_if_there", "json"}

Options = Mapping[str, Any]


@dataclass(frozen=True)
class AblateConfig:
    """Which recipe, and where to."""

    recipe: tyro.conf.Positional[Path]
    """TOML with [base] and [variations.NAME]."""
    out: Path
    """Folder for the trainings and the table."""
    root: Path | None = None
    """As of training.train, for all of them."""
    only: tuple[str, ...] = ()
    """Train these only (`base`, or names of variations); the table has what is finished."""
    json: bool = False
    """Print table.json instead of the table."""

    def __post_init__(self) -> None:
        if self.root is not None and not self.root.is_dir():
            raise UsageError(f"--root {self.root}: no such folder")


def main(config: AblateConfig) -> int:
    """Exit code as above."""
    recipe, console = read(config.recipe), Console(stderr=True, highlight=False, soft_wrap=True)
    if unknown := set(config.only) - recipe.keys():
        raise UsageError(f"--only {', '.join(sorted(unknown))}: the recipe has {', '.join(recipe)}")
    for name, options in recipe.items():
        require_unchanged(options, config.out / name)
    failed = []
    for name in config.only or tuple(recipe):
        if not finished(config.out / name):
            console.print(f"{name}: training", markup=False)
            record(recipe[name], config.out / name)
            if train(command(recipe[name], config.out / name, config.root), as_json=config.json):
                failed.append(name)
    rows = [row(name, recipe[name], config.out / name) for name in recipe if finished(config.out / name)]
    compare(rows)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / f"{TABLE}.json").write_text(json.dumps(rows, indent=1) + "\n")
    (config.out / f"{TABLE}.md").write_text(markdown(rows))
    print(json.dumps(rows) if config.json else markdown(rows))
    for name in failed:
        console.print(f"error: {name} failed, see above", markup=False)
    return 1 if failed else 0


def read(path: Path) -> dict[str, Options]:
    """The options of each training by its name, the base first. Raises UsageError for a file that is no recipe."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no recipe: {error}") from None
    base, variations = table.get(BASE), table.get("variations", {})
    if not isinstance(base, dict) or not isinstance(variations, dict) or table.keys() - {BASE, "variations"}:
        raise UsageError(
            f"{path}: expected [{BASE}] and [variations.NAME], got {', '.join(table) or 'nothing'}"
        )
    recipe = {BASE: base} | {name: {**base, **changes} for name, changes in variations.items()}
    for name, options in recipe.items():
        if wrong := NOT_IN_RECIPES & options.keys():
            raise UsageError(
                f"{path}, {name}: {', '.join(sorted(wrong))} is not for a recipe, it is set here"
            )
        if name != BASE and options == base:
            raise UsageError(f"{path}: the variation {name} changes nothing")
    return recipe


def command(options: Options, out: Path, root: Path | None) -> list[str]:
    """The training of these options; names may have _ or -."""
    given = {**options, "out": str(out), "resume_if_there": True} | ({"root": str(root)} if root else {})
    found = [sys.executable, "-m", "training.train"]
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return found


def train(command: list[str], *, as_json: bool = False) -> int:
    """The exit code of a training, which with `as_json` tells its progress on standard error. Raises Interrupted after
    a signal, KeyboardInterrupt after a second Ctrl-C.

    Which is passed on: a training left alone would go on, beside the one that the same command starts.
    """
    asked, child = "", None

    def pass_on(number: int, _: object) -> None:
        nonlocal asked
        asked = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, before[number])
        if child is not None:
            child.terminate()

    kept = (number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)
    before: dict[int, Any] = {number: signal.signal(number, pass_on) for number in kept}
    try:
        with subprocess.Popen(command, stdout=sys.stderr if as_json else None) as child:
            try:
                if asked:  # before there was a child
                    child.terminate()
                code = child.wait()
            except BaseException:  # a second Ctrl-C: who asks twice does not want to wait
                child.kill()
                raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise Interrupted(f"stopped by {asked}, the training ended with exit code {code}. {GO_ON}")
    return code


def finished(out: Path) -> bool:
    """The shipped model is what a training writes last."""
    return (out / SHIPPED).exists()


def _options_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.options.json")


def record(options: Options, out: Path) -> None:
    """Write down, beside the folder of a training, what it is made with."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _options_file(out).write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")


def require_unchanged(options: Options, out: Path) -> None:
    """Raises UsageError where `out` holds a training of other options: its result would stand under these."""
    if not out.exists():
        return
    try:
        was = json.loads(_options_file(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(
            f"{out} was trained with options that are not known: name another --out, or remove it"
        ) from None
    if changed := sorted(name for name in was.keys() | options if was.get(name) != options.get(name)):
        said = ", ".join(f"{name} was {was.get(name)!r}, is {options.get(name)!r}" for name in changed)
        raise UsageError(f"{out} was trained with other options ({said}): name another --out, or remove it")


def row(name: str, options: Options, out: Path) -> dict[str, Any]:
    """What a finished training brought, at the epoch with the best mIoU."""
    lines = [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]
    best = max((line for line in lines if "miou" in line), key=lambda line: line["miou"] or 0.0, default=None)
    if best is None:
        raise UsageError(f"{out / METRICS} has no epoch that was scored: remove {out} and train it anew")
    return {
        "name": name,
        "miou": best["miou"],
        "allacc": best["allacc"],
        "epoch": best["epoch"],
        "epochs": len(lines),
        "minutes": minutes(lines),
        "iou": {label: values["iou"] for label, values in best["classes"].items()},
        "options": dict(options),
    }


def minutes(lines: list[dict[str, Any]]) -> float:
    """Of a training: as it counts its cost, because of an epoch that was interrupted `seconds` are only those since."""
    cost = lines[-1].get("cost")  # trainings from before costs were counted have none
    return float(60 * cost["hours"] if cost else sum(line["seconds"] for line in lines) / 60)


def compare(rows: list[dict[str, Any]]) -> None:
    """Add `points`: the difference in mIoU to the base, 0.01 each; None where the base is not finished."""
    base = next((item["miou"] for item in rows if item["name"] == BASE), None)
    for item in rows:
        known = base is not None and item["miou"] is not None
        item["points"] = 100 * (item["miou"] - base) if known else None


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    if not rows:
        return "nothing is finished yet\n"
    classes = list(
        dict.fromkeys(label for item in rows for label in item["iou"])
    )  # joined ones, in a variation
    lines = [
        f"| | mIoU % | points | {' | '.join(classes)} | best epoch | minutes |",
        "|---" * (len(classes) + 5) + "|",
    ]
    for item in rows:
        points = "" if item["points"] is None or item["name"] == BASE else f"{item['points']:+.1f}"
        iou = " | ".join(_percent(item["iou"].get(label)) for label in classes)
        lines.append(
            f"| {item['name']} | {_percent(item['miou'])} | {points} | {iou} | {item['epoch']} of {item['epochs']} | "
            f"{item['minutes']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


if __name__ == "__main__":
    run(AblateConfig, main)
