"""What a conversion usually gets wrong, as changes to one description of how photos become masks.

    for mend in mends(pipeline, turned=True): print(mend.kind, mend.words)

Each mend undoes one wrong assumption. Those about labels need no network: they rearrange a table of counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from training.layout import Layout
from training.meta import CheckpointMeta

Triple = tuple[float, float, float]
Resize = Literal[
    "served", "nearest", "bilinear without antialiasing", "bicubic", "lanczos", "area", "stretched"
]
Counts = NDArray[np.int64]

# (mean, std) of pixels from 0 to 255
NORMALISATIONS: tuple[tuple[str, Triple, Triple], ...] = (
    ("ImageNet's", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ("(x - 127) / 128", (127.0,) * 3, (128.0,) * 3),
    ("(x - 127.5) / 127.5", (127.5,) * 3, (127.5,) * 3),
    ("x / 255", (0.0,) * 3, (255.0,) * 3),
    ("none", (0.0,) * 3, (1.0,) * 3),
    ("Caffe's mean alone", (123.675, 116.28, 103.53), (1.0,) * 3),
    ("the older CSAIL's mean alone", (122.7717, 115.9465, 102.9801), (1.0,) * 3),
)
EPSILONS = (1e-3, 1e-5)
RESIZES: tuple[Resize, ...] = (
    "nearest",
    "bilinear without antialiasing",
    "bicubic",
    "lanczos",
    "area",
    "stretched",
)
SELDOM, NEVER = 0.05, 0.005
"""A class that is more than the first share of the labels, and less than the second of the masks, may be no class."""
NO_CLASS = re.compile("void|unlabel|ignore|background|unknown|undefined", re.IGNORECASE)
"""Names of what is no class. Another one may be a class that the model misses."""


@dataclass(frozen=True)
class Pipeline:
    """Photo to mask. `mean`, `std`: RGB on 0..255. None: as the preset has it."""

    mean: Triple
    std: Triple
    align_corners: bool
    bn_eps: float | None
    layout: Layout | None
    bgr: bool = False
    resize: Resize = "served"
    upright: bool = True

    @classmethod
    def of(cls, meta: CheckpointMeta) -> Pipeline:
        """As the checkpoint describes itself, and as it is served."""
        return cls(meta.mean, meta.std, meta.align_corners, meta.bn_eps, meta.layout)


@dataclass(frozen=True)
class Mend:
    """One assumption undone. `kind`: which; `words`: what was wrong. What to do follows from the last pipeline."""

    kind: str
    words: str
    pipeline: Pipeline


def fed_bgr(meta: CheckpointMeta) -> bool:
    """Whether the importer was told that the source fed BGR: then the first convolution was turned round."""
    return meta.provenance.get("fed", "").startswith("bgr")


def mends(now: Pipeline, *, bn_eps: float, bottleneck: bool, turned: bool, was_bgr: bool) -> list[Mend]:
    """All single changes to `now`.

    `bn_eps`: the model's at present; `turned`: some photo has an EXIF orientation; `was_bgr`: `fed_bgr` of it.
    """
    order = ("RGB, and imported as if on BGR: its first convolution must not be turned round"
             if was_bgr else "BGR: turn round the first convolution's inputs")  # fmt: skip
    found = [
        Mend("channel order", f"the network was trained on {order}", replace(now, bgr=not now.bgr)),
        Mend("align_corners", f"align_corners is {now.align_corners} in the checkpoint, the weights were trained with "
             f"{not now.align_corners}", replace(now, align_corners=not now.align_corners)),
    ]  # fmt: skip
    found += [*_scales(now), *_normalisations(now)]
    for eps in EPSILONS:
        if not np.isclose(eps, bn_eps):
            words = f"the batch norms use an epsilon of {bn_eps:g}, the weights were trained with {eps:g}"
            found.append(Mend("bn eps", words, replace(now, bn_eps=eps)))
    for resize in RESIZES:
        if now.resize == "served":
            words = f"photos were resized otherwise ({resize}) for the masks that this one is compared with"
            found.append(Mend("resize filter", words, replace(now, resize=resize)))
    if turned and now.upright:
        words = "the labels or masks were made of the pixels as stored; the photos' EXIF orientation was not applied"
        found.append(Mend("EXIF", words, replace(now, upright=False)))
    return found + _layouts(now, bottleneck)


def _normalisations(now: Pipeline) -> list[Mend]:
    candidates = (*NORMALISATIONS, ("the same in the other order", now.mean[::-1], now.std[::-1]))
    return [
        Mend("mean and std", f"the checkpoint says mean {now.mean}, std {now.std}; the weights were trained with "
             f"{name}: mean {mean}, std {std} (RGB, 0 to 255)", replace(now, mean=mean, std=std))
        for name, mean, std in candidates
        if not np.allclose((*mean, *std), (*now.mean, *now.std))
    ]  # fmt: skip


def _scales(now: Pipeline) -> list[Mend]:
    found = []
    for factor, words in (
        (255.0, "mean and std are those of pixels from 0 to 1, but pixels come from 0 to 255: times 255"),
        (1 / 255, "mean and std were multiplied by 255 once too often: divide them by 255"),
    ):
        mean, std = (tuple(value * factor for value in values) for values in (now.mean, now.std))
        scaled = replace(now, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))
        found.append(Mend("pixel scale", words, scaled))
    return found


def _layouts(now: Pipeline, bottleneck: bool) -> list[Mend]:
    """Of a ResNet; a network of this repository is one with the default layout."""
    if now.layout is None:
        return []
    contracted = replace(now.layout, contracted=not now.layout.contracted)
    was = "half" if now.layout.contracted else "all"
    found = [
        Mend("dilation", f"the first block of a dilated stage has {was} of its dilation here, and had "
             f"{'all' if was == 'half' else 'half'} in training", replace(now, layout=contracted)),
    ]  # fmt: skip
    if bottleneck:
        other: Literal["3x3", "1x1"] = "1x1" if now.layout.stride_in == "3x3" else "3x3"
        was = now.layout.stride_in
        words = f"the stride is in the {was} here and was in the {other} in training"
        found.append(
            Mend("stride position", words, replace(now, layout=replace(now.layout, stride_in=other)))
        )
    return found


# --- of labels: counts[photo, value of the label file, predicted class] --------------------------------------------


@dataclass(frozen=True)
class Reading:
    """How the values of label files are to be read: `table` uint8 (256,), value -> class or ignore label.

    `changes`: how many things that assumes. `certain`: it holds whatever the score says. `vague`: labels that people
    drew can't prove it.
    """

    kind: str
    words: str
    table: NDArray[np.uint8]
    changes: int = 1
    certain: bool = False
    vague: bool = False

    def counts(self, counts: Counts) -> Counts:
        """The same counts with the values read this way."""
        read = np.zeros_like(counts)
        for value in np.flatnonzero(counts.any(axis=(0, 2))):
            read[:, self.table[value]] += counts[:, value]
        return read


def rearranged(meta: CheckpointMeta) -> Reading | None:
    """Values of the original's masks as classes here, where the importer's --order rearranged the outputs."""
    if not (found := re.fullmatch(r"([\d, ]+) of (\d+)", meta.provenance.get("outputs_taken", ""))):
        return None
    table = np.arange(256, dtype=np.uint8)
    table[: int(found[2])] = meta.ignore_label  # outputs that were left out
    table[[int(theirs) for theirs in found[1].split(",")]] = np.arange(len(meta.classes))
    words = "the masks are in the order of the original's outputs, which --order rearranged at the import"
    return Reading("rearranged", words, table, certain=True)


def readings(counts: Counts, classes: tuple[str, ...], ignore_label: int) -> list[Reading]:
    """All readings that may explain something; `counts` int64 (photos, 256, num_classes)."""
    counts = counts.sum(axis=0)
    return [
        *_offsets(ignore_label),
        *_ignored(counts, classes, ignore_label),
        *_permuted(counts[: len(classes)], classes),
    ]


def _offsets(ignore_label: int) -> list[Reading]:
    values = np.arange(256)
    down, up = (np.clip(values + step, 0, 255).astype(np.uint8) for step in (-1, 1))
    down[0] = down[ignore_label] = up[ignore_label] = ignore_label
    return [
        Reading("label offset", "labels are one too high: value 1 is class 0, and 0 is unlabelled", down),
        Reading("label offset", "labels are one too low: value 0 is class 1", up),
    ]


def _ignored(counts: Counts, classes: tuple[str, ...], ignore_label: int) -> list[Reading]:
    labelled = counts.sum(axis=1)
    labelled[ignore_label] = 0
    values = np.flatnonzero(labelled)
    beyond = values[values >= len(classes)]
    found = []
    if beyond.size:
        table = np.arange(256, dtype=np.uint8)
        table[beyond] = ignore_label
        shown = ", ".join(map(str, beyond[:8]))
        words = f"label values {shown} are unlabelled pixels, and no class"
        found.append(Reading("ignore label", words, table, certain=True))
    for value in {0, len(classes) - 1}:  # where void is put by custom
        never = counts[:, value].sum() < NEVER * labelled.sum()
        if never and labelled[value] > SELDOM * labelled.sum():
            table = np.arange(256, dtype=np.uint8)
            table[value] = ignore_label
            words = f"label value {value} ({classes[value]}) stands for unlabelled pixels"
            found.append(Reading("ignore label", words, table, vague=not NO_CLASS.search(classes[value])))
    return found


def _permuted(square: Counts, classes: tuple[str, ...]) -> list[Reading]:
    """Kuhn's assignment of labels to predictions that makes the most pixels right."""
    rows, columns = linear_sum_assignment(square, maximize=True)
    moved = [
        (row, column)
        for row, column in zip(rows, columns, strict=True)
        if row != column and square[row, column]
    ]
    if not moved:
        return []
    table = np.arange(256, dtype=np.uint8)
    table[rows] = columns
    shown = ", ".join(f"{classes[row]} is output {column} ({classes[column]})" for row, column in moved[:6])
    words = f"the outputs are in another order than the class list: {shown}"
    return [Reading("class order", words, table, max(2, len(moved)))]  # one class alone can't be elsewhere
