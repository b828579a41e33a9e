r"""Other people's labels to a dataset that `training.train` reads: checked, remapped, split, and put on one picture.

    python -m training.prepare camvid --format index --images train val --labels train_labels val_labels \
        --names camvid/classes.txt --ignore 11 --out data/camvid
    python -m training.prepare furniture --format yolo --table training/remaps/furniture_rooms.toml --out data/furniture
    python -m training.prepare floors --format index --labels masks --names training/remaps/floors.txt \
        --table training/remaps/floors_rooms.toml --group "^(.+)_" --out data/floors
    python -m training.prepare ADEChallengeData2016 --format ade20k --table training/remaps/ade20k150_rooms.toml \
        --out data/ade_rooms
    python -m training.train --data data/camvid/dataset.toml --out runs/camvid

Every image is decoded and every label read. What is bad is left out and listed, on the screen and in left_out.csv, with
the reason. contact_sheet.png shows labels over photos: look at it before you train. Exit code 0: there is a dataset;
1: too much was bad (--max-left-out), too few groups for the splits, or nothing left of one; 2: wrong usage.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from segserve import cli
from segserve.errors import CheckFailed, UsageError
from segserve.labels import IGNORE_LABEL
from training import contact_sheet, duplicates, pairs, prepare_report, remap, splits
from training.description import IMAGE_SUFFIXES, shown
from training.pairs import Checked, Checker
from training.prepare_options import LEFT_OUT, PrepareConfig
from training.sources import coco, colour_png, index_png, labelme, yolo
from training.sources.item import Found, Item, LeftOut
from training.splits import Split

DEFAULT_VAL = 0.1


def main(config: PrepareConfig) -> None:
    """Exit code as above."""
    console = Console(stderr=config.as_json, highlight=False, soft_wrap=True)
    source = find(config)
    config.out.mkdir(parents=True, exist_ok=True)
    with pairs.whole(config.out):  # but the list of what was bad stays
        found = prepare(config, source, console)
    if config.as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        prepare_report.show(console, found)
        description = shown(config.out / "dataset.toml")
        print(f"{description} is what training.train reads; look at contact_sheet.png beside it")


def find(config: PrepareConfig) -> Found:
    """The pairs of the format. Raises DatasetError, UsageError."""
    root, images, labels, names = config.root, config.images, config.label_paths, config.names
    if config.format == "index":
        assert names is not None  # checked with the options
        return index_png.find(root, images, labels, names, config.ignore)
    if config.format == "colour":
        assert names is not None
        return colour_png.find(root, images, labels, names)
    if config.format == "ade20k":
        return index_png.find_ade20k(root, images, labels, config.ignore)
    if config.format == "coco":
        return coco.find(root, images, labels)
    if config.format == "yolo":
        return yolo.find(root, names)
    return labelme.find(root, names)


def prepare(config: PrepareConfig, found: Found, console: Console) -> dict[str, Any]:
    """Check, split, write. Returns: the report. Raises CheckFailed, DatasetError, UsageError."""
    names = found.source.names
    table = (
        remap.read(config.table, names, config.ignore) if config.table else remap.plain(names, config.ignore)
    )
    checker = Checker(found.source, table, config.out, config.labels_as_stored)
    if config.own_splits is None:
        require_all_or_none(found.items)  # before hours of reading
    progress = Console(stderr=True)
    results = list(
        track(
            pairs.check_all(checker, found.items, config.workers),
            "checking pairs",
            len(found.items),
            console=progress,
            disable=not progress.is_terminal,
        )
    )
    checked = [result for result in results if isinstance(result, Checked)]
    left_out = [*found.left_out, *(result for result in results if isinstance(result, LeftOut))]
    check_enough(config, checked, left_out, console)
    same = duplicates.links([pair.fingerprint for pair in checked], splits.ranks_of(checked))
    split, splits_from = assign(config, checked, [] if config.keep_duplicates else same)
    for pair, bad in split.left_out:
        pair.image.unlink()
        pair.label.unlink()
        left_out.append(bad)
    check_enough(config, [pair for members in split.members.values() for pair in members], left_out, console)
    require_whole(split)
    prepare_report.show_left_out(console, left_out, config.out / LEFT_OUT)
    report = prepare_report.report(table.classes, split, left_out, alike(checked, same), splits_from)
    of_values = config.format == "index" and config.table is None
    if of_values and (hint := prepare_report.no_class_255(names, config.ignore, report)):
        console.print(hint, style="yellow", markup=False)
    write(config.out, table, split, report)
    return report


def check_enough(
    config: PrepareConfig, checked: list[Checked], left_out: list[LeftOut], console: Console
) -> None:
    """Raises CheckFailed, when what was left out is listed; UsageError: nothing was there."""
    everything = len(checked) + len(left_out)
    if not everything:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(
            f"{config.root}: no image ({suffixes}) and no label; name their folders: --images, --labels"
        )
    prepare_report.write_left_out(config.out / LEFT_OUT, left_out)
    if checked and len(left_out) <= config.max_left_out * everything:
        return
    prepare_report.show_left_out(console, left_out, config.out / LEFT_OUT)
    kinds = {bad.kind for bad in left_out}
    alike = "; --keep-duplicates keeps what looks alike, as photos of a camera that stands still"
    raise CheckFailed(
        f"{len(left_out)} of {everything} were bad, --max-left-out allows {config.max_left_out:.0%}: "
        "an option does not fit the data, or mend the data, or allow more" + alike * ("duplicate" in kinds)
    )


def require_whole(split: Split) -> None:
    """Raises CheckFailed where nothing is left of a split that the source has and training needs."""
    for name in ("train", "val"):
        gone = [bad for pair, bad in split.left_out if pair.split == name]
        if not gone or name in split.members:
            continue
        kinds = ", ".join(
            f"{count} {kind}" for kind, count in Counter(bad.kind for bad in gone).most_common()
        )
        raise CheckFailed(
            f"nothing is left of {name}, as other splits have the same ({kinds}), such as {gone[0].file}: "
            f"{gone[0].reason}; draw the splits anew with --val SHARE, or keep what looks alike with "
            "--keep-duplicates, and clips or houses by leaving out --group"
        )


def alike(checked: Sequence[Checked], same: Sequence[tuple[int, int]]) -> list[list[Checked]]:
    """Groups of pairs that show the same thing."""
    groups: defaultdict[int, list[Checked]] = defaultdict(list)
    for pair, root in zip(checked, duplicates.groups(len(checked), list(same)), strict=True):
        groups[root].append(pair)
    return [group for group in groups.values() if len(group) > 1]


def require_all_or_none(items: Sequence[Item | Checked]) -> None:
    """The source's splits are whole, or there are none: photos kept for a test must not be trained on.

    Raises UsageError.
    """
    given = {item.split for item in items}
    if len(given) <= 1 or ({"train", "val"} <= given and None not in given):
        return
    stray = next((f"{item.image} is in none of them" for item in items if item.split is None), None)
    raise UsageError(
        f"folders name the splits {', '.join(sorted(filter(None, given)))}, but "
        f"{stray or 'train and val are needed'}: rename or move folders, or draw the splits anew from all images with "
        "--val SHARE"
    )


def assign(config: PrepareConfig, checked: list[Checked], same: list[tuple[int, int]]) -> tuple[Split, str]:
    """The splits, and where they are from in words."""
    keys = splits.group_keys(re.compile(config.group) if config.group else None, checked)
    given = {pair.split for pair in checked}
    if config.own_splits is None:
        require_all_or_none(checked)  # all of one may have been bad
        if {"train", "val"} <= given:
            return splits.keep(checked, keys, same), "the source"
    shares = config.own_splits or {"val": DEFAULT_VAL, "test": 0.0}
    return splits.make(checked, keys, same, shares, config.seed), f"seed {config.seed}"


def write(out: Path, table: remap.Remap, split: Split, report: dict[str, Any]) -> None:
    """The lists, the picture, the report, and dataset.toml last: where it is, all is."""
    classes = table.classes
    # JSON's text is TOML's, but for what no class name has: lone surrogates
    lines = [f"name = {json.dumps(shown(out.resolve().name), ensure_ascii=False)}"]
    lines += [f"classes = {json.dumps(classes, ensure_ascii=False)}", f"ignore_label = {IGNORE_LABEL}"]
    if table.not_these:
        lines.append("\n[partial]")
    for item in table.not_these:
        names = [classes[label] for label in item.classes]
        lines.append(f"{item.value} = {json.dumps(names, ensure_ascii=False)}")
    for name, members in split.members.items():
        (out / f"{name}.txt").write_text("".join(f"{pair.name}\n" for pair in members), encoding="utf-8")
        entry = f'images = "{pairs.IMAGES}"\nlabels = "{pairs.LABELS}"\nlist = "{name}.txt"'
        lines.append(f"\n[splits.{name}]\n{entry}")
    placed = [replace(pair, split=name) for name, inside in split.members.items() for pair in inside]
    contact_sheet.draw(contact_sheet.choose(placed), classes).save(out / "contact_sheet.png")
    (out / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    (out / "dataset.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(PrepareConfig, main)
