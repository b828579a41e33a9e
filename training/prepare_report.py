"""What `training.prepare` found, as a dictionary (report.json), as CSV (left_out.csv), and in words."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training.description import shown
from training.pairs import Checked
from training.sources.item import LeftOut
from training.splits import Split

SCHEMA = 1
SHOWN = 20
SAME_SHOWN = 100  # groups, and photos of each


def report(
    classes: Sequence[str],
    split: Split,
    left_out: Sequence[LeftOut],
    same: Sequence[Sequence[Checked]],
    splits_from: str,
) -> dict[str, Any]:
    """JSON. Shares are of the pixels that are not ignored. `same`: groups that show the same, the first of many."""
    members = [pair for pairs in split.members.values() for pair in pairs]
    return {
        "schema": SCHEMA,
        "splits_from": splits_from,
        "splits": {
            name: {"images": len(pairs), "groups": split.groups[name], **_pixels(pairs)}
            for name, pairs in split.members.items()
        },
        "classes": [
            {"name": name, **{key: _class(pairs, label) for key, pairs in split.members.items()}}
            for label, name in enumerate(classes)
        ],
        "left_out": [
            {"file": file, "kind": kind, "reason": reason} for file, kind, reason in _rows(left_out)
        ],
        "left_out_by_kind": dict(Counter(bad.kind for bad in left_out).most_common()),
        "same": [[shown(pair.source) for pair in group[:SAME_SHOWN]] for group in same[:SAME_SHOWN]],
        "same_groups": len(same),
        "same_images": sum(map(len, same)),
        "notes": [{"file": shown(pair.source), "note": pair.note} for pair in members if pair.note],
    }


def no_class_255(names: Mapping[int, str], ignored: Sequence[str], found: dict[str, Any]) -> str | None:
    """Words where 255 was taken for "ignore", and a class has no pixel at all: in a mask of 0 and 255 it is a class."""
    missing = [
        entry["name"]
        for entry in found["classes"]
        if not any(entry[name]["pixels"] for name in found["splits"])
    ]
    any_ignored = any(split["ignored_share"] for split in found["splits"].values())
    if not missing or not any_ignored or 255 in names or "255" in ignored:
        return None
    return (
        f"no label has {', '.join(missing)}, and 255 is ignored: if it is a class, give each line of --names its "
        f"value, and that one 255 (`255 {missing[-1]}`)"
    )


def _pixels(pairs: Sequence[Checked]) -> dict[str, Any]:
    labelled, ignored = sum(sum(pair.pixels) for pair in pairs), sum(pair.ignored for pair in pairs)
    return {"pixels": labelled, "ignored_share": ignored / max(1, labelled + ignored)}


def _class(pairs: Sequence[Checked], label: int) -> dict[str, Any]:
    pixels = np.array([pair.pixels for pair in pairs], np.int64)
    mine = int(pixels[:, label].sum())
    return {
        "pixels": mine,
        "share": mine / max(1, int(pixels.sum())),
        "images": int((pixels[:, label] > 0).sum()),
    }


def _rows(left_out: Sequence[LeftOut]) -> list[tuple[str, str, str]]:
    """File, kind, reason as text: reasons name files too."""
    return [(shown(bad.file), bad.kind, shown(bad.reason)) for bad in left_out]


def write_left_out(path: Path, left_out: Sequence[LeftOut]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "kind", "reason"))
        writer.writerows(_rows(left_out))


def show_left_out(console: Console, left_out: Sequence[LeftOut], path: Path) -> None:
    """The first of each kind, so that many of one don't hide the others."""
    kinds = Counter(bad.kind for bad in left_out)
    if not kinds:
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    console.print(f"left out: {counts}; all in {shown(path)}", style="yellow", markup=False)
    rows, each = _rows(left_out), max(1, SHOWN // len(kinds))
    for kind in kinds:
        of_kind = [row for row in rows if row[1] == kind]
        for file, _, reason in of_kind[:each]:
            console.print(f"  {kind}: {file}: {reason}", markup=False)
        if len(of_kind) > each:
            console.print(f"  {kind}: {len(of_kind) - each} more", markup=False)


def show(console: Console, found: dict[str, Any]) -> None:
    """Table of the classes, and what deserves a look."""
    splits = found["splits"]
    table = Table("class", title=f"splits from {escape(found['splits_from'])}", title_justify="left")
    for name in splits:
        table.add_column(f"{name}: share %", justify="right")
        table.add_column("images", justify="right")
    for entry in found["classes"]:
        cells = [(f"{100 * entry[name]['share']:.2f}", str(entry[name]["images"])) for name in splits]
        table.add_row(escape(entry["name"]), *(cell for pair in cells for cell in pair))
    table.add_section()
    ignored = [(f"{100 * split['ignored_share']:.2f}", str(split["images"])) for split in splits.values()]
    table.add_row("ignored; images in all", *(cell for pair in ignored for cell in pair))
    console.print(table)
    for name in splits:
        if absent := [entry["name"] for entry in found["classes"] if not entry[name]["pixels"]]:
            console.print(f"{name} has no pixel of {', '.join(absent)}", style="yellow", markup=False)
    if found["same"]:
        count, groups = found["same_images"], found["same_groups"]
        console.print(f"{count} images show the same, in {groups} groups (report.json, `same`)", markup=False)
    if found["notes"]:
        first = found["notes"][0]
        console.print(f"{len(found['notes'])} to look at, as {first['file']}: {first['note']}", markup=False)
