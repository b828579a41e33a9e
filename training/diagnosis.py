"""Which wrong assumption explains the gap between a model's masks and what they should be.

    found = diagnose(patient, references=True)
    print(found.words())

Every assumption is undone alone, and each together with every reading of the labels (which costs nothing more). What
closes most of the gap is kept, and the search goes on from there once more: that finds pairs, greedily.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from segserve.errors import UsageError
from training.assumptions import (
    Counts,
    Mend,
    Pipeline,
    Reading,
    fed_bgr,
    mends,
    readings,
)
from training.backbones import RESNETS, Bottleneck
from training.diagnosis_remarks import advice, remarks
from training.patient import Patient, agreement, labelled, miou

AGREEMENT, MIOU = "agreement", "mIoU"
ROUNDS = 2
CLOSED = 0.3
"""Share of the gap to a reference that a change must close to be named."""
SAME = 0.001
"""A share of pixels that differ from a reference's: no gap left to explain."""
SURE = 0.0001
"""Likewise, and so little that nothing else needs to be tried: it could not be better by anything that counts."""
GAIN = 0.03
"""mIoU that a change must gain where labels were drawn by people: there the gap is mostly the model's."""
NOISE = 0.01
"""mIoU by which a later one of the changes must be better (those come first that are made most often), and that each
thing which a reading assumes must bring."""
MOST_GAIN = 0.2
"""The most that is asked of a change that assumes many things, such as another order of the classes."""
PRICE = 0.002
"""The latter where masks are compared with masks."""


@dataclass(frozen=True)
class Try:
    """A row of the report: what was changed, and the score with it (0 to 1)."""

    kind: str
    words: str
    score: float


@dataclass(frozen=True)
class Diagnosis:
    """`found`: the changes that explain the gap, most telling first. `tries`: everything that was tried.

    `pipeline` and `reading` are those with the gap closed; `reading` None: labels are read as they are. `order`: how
    the original's masks were read before that. `advice`: options to import again with; `remarks`: whole sentences.
    """

    measure: str
    as_is: float
    mended: float
    found: tuple[Try, ...]
    tries: tuple[Try, ...]
    pipeline: Pipeline
    reading: Reading | None
    order: Reading | None
    advice: str
    remarks: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(one.kind for one in self.found)

    @property
    def healthy(self) -> bool:
        """Whether there is no gap, or none but the model's own against labels drawn by people."""
        return not self.found and (self.measure == MIOU or 1 - self.as_is <= SAME)

    def words(self) -> str:
        """The finding in a few sentences."""
        rest = self._rest()
        what = "To see how far that goes, import it again" if rest else "Import it again"
        advice = f"{what} with {self.advice} and the other options as before." if self.advice else ""
        return " ".join(filter(None, (self._finding(), rest, advice, *self.remarks)))

    def _rest(self) -> str:
        """What the changes leave open: a cause that explains a third of a gap may be another's shadow."""
        if not self.found or self.measure == MIOU or 1 - self.mended <= SAME:
            return ""
        return (
            f"That explains only a part: {100 * (1 - self.mended):.2f} % of the pixels still differ, of "
            f"{100 * (1 - self.as_is):.2f} %. Something else is wrong too, and may be the cause of all."
        )

    def _finding(self) -> str:
        score = f"{self.measure} {100 * self.as_is:.2f} %"
        if self.found:
            what = "; and ".join(one.words for one in self.found)
            return f"{' and '.join(self.kinds)}: {what}. {score} as is, {100 * self.mended:.2f} % mended."
        if self.healthy and self.measure == MIOU:
            return f"no usual assumption is surely wrong: {score}.{self.suspicion()}"
        if self.healthy:
            return f"nothing is wrong: {score}."
        return f"none of the usual assumptions explains it: {score}, {100 * self.mended:.2f} % at best."

    def suspicion(self) -> str:
        """What comes nearest to an explanation, where labels show too little to be sure."""
        nearest = max(self.tries, key=lambda one: one.score)
        if nearest.score - self.as_is < NOISE:
            return ""
        return (
            f" Nearest to an explanation: {nearest.kind}, {100 * nearest.score:.2f} %; more photos, or the original's "
            "masks as --reference-masks, would decide."
        )

    def read_labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Values of a label file -> classes, as found."""
        for reading in (self.order, self.reading):
            labels = labels if reading is None else reading.table[labels]
        return labels


@dataclass(frozen=True)
class _State:
    """A pipeline, its score, its best explaining reading of the labels, and score and counts with that."""

    pipeline: Pipeline
    plain: float
    reading: Reading | None
    reached: float
    counts: Counts


@dataclass
class _Search:
    """One diagnosis under way."""

    patient: Patient
    references: bool
    order: Reading | None = None
    tries: list[Try] = field(default_factory=list)

    def score(self, counts: Counts) -> float:
        measure = agreement if self.references else miou
        return measure(counts.sum(axis=0), self.patient.meta.ignore_label)

    def counts(self, pipeline: Pipeline) -> Counts:
        """With the original's masks in the order of the outputs here."""
        counts = self.patient.counts(pipeline)
        return counts if self.order is None else self.order.counts(counts)

    def explains(self, before: Counts, after: Counts, changes: int = 1) -> bool:
        """Whether going from `before` to `after` is more than chance, or than fitting a few photos.

        Against labels the gain must be there whichever photo is left out.
        """
        if self.references:
            gap = 1 - self.score(before)
            return gap > SAME and self.score(after) - (1 - gap) >= CLOSED * gap
        needed, photos = min(GAIN * changes, MOST_GAIN), len(before)
        subsets = [np.arange(photos) != left_out for left_out in range(photos if photos > 1 else 0)]
        return all(
            self.score(after[kept]) - self.score(before[kept]) >= needed
            for kept in [np.full(photos, True), *subsets]
        )

    def state(self, pipeline: Pipeline, *, keep: bool = False) -> _State:
        """Ask the network, then read the labels in every way."""
        counts, meta = self.counts(pipeline), self.patient.meta
        state = _State(pipeline, self.score(counts), None, self.score(counts), counts)
        for reading in readings(counts, meta.classes, meta.ignore_label):
            read = reading.counts(counts)
            score = self.score(read)
            if keep:
                self.tries.append(Try(reading.kind, reading.words, score))
            # of readings that are as good, the one that assumes least
            better = score > state.reached + self.price * (reading.changes - 1)
            certain = reading.certain and score > state.plain + PRICE
            provable = self.references or not reading.vague
            if better and provable and (certain or self.explains(counts, read, reading.changes)):
                state = replace(state, reading=reading, reached=score, counts=read)
        return state

    def changes(self, now: Pipeline, used: set[str]) -> list[Mend]:
        meta = self.patient.meta
        bottleneck = meta.preset in RESNETS and RESNETS[meta.preset][0] is Bottleneck
        eps = now.bn_eps or self.patient.bn_eps
        every = mends(
            now, bn_eps=eps, bottleneck=bottleneck, turned=self.patient.turned(), was_bgr=fed_bgr(meta)
        )
        return [mend for mend in every if mend.kind not in used]

    def best_change(self, now: _State, used: set[str]) -> tuple[list[Mend], _State] | None:
        """The change after which most is right, however the labels are read; None if it explains nothing.

        What concerns colours is often wrong in two ways at once, and then neither helps alone: these are tried in
        pairs where no single change is enough.
        """
        singles = self.changes(now.pipeline, used)
        chosen = self.best([[mend] for mend in singles])
        single = self.explaining(now, chosen)
        if chosen is None or (single and (not self.references or 1 - chosen[1].reached <= SAME)):
            return single
        order = [mend for mend in singles if mend.kind == "channel order"]
        pairs = [
            [replace(mend, pipeline=replace(mend.pipeline, bgr=turned.pipeline.bgr)), turned]
            for turned in order
            for mend in singles
            if mend.kind in ("mean and std", "pixel scale")
        ]
        paired = self.best(pairs)
        if paired is not None and self.explains(chosen[1].counts, paired[1].counts):
            chosen = paired
        return self.explaining(now, chosen)

    def best(self, options: list[list[Mend]]) -> tuple[list[Mend], _State] | None:
        """Try each until one explains all; the first mend of an option has the pipeline with all of them."""
        chosen: tuple[list[Mend], _State] | None = None
        for option in options:
            state = self.state(option[0].pipeline)
            kind, words = " and ".join(m.kind for m in option), "; ".join(m.words for m in option)
            self.tries.append(Try(kind, words, state.plain))
            noise = 0 if self.references else NOISE
            if chosen is None or self.worth(state) > self.worth(chosen[1]) + noise:
                chosen = option, state
            if self.references and state.reading is None and 1 - state.reached <= SURE:
                break
        return chosen

    def explaining(
        self, now: _State, chosen: tuple[list[Mend], _State] | None
    ) -> tuple[list[Mend], _State] | None:
        """`chosen`, if it is better than what there is by more than chance."""
        return chosen if chosen and self.explains(now.counts, chosen[1].counts) else None

    def worth(self, state: _State) -> float:
        return state.reached - (self.price * state.reading.changes if state.reading else 0)

    @property
    def price(self) -> float:
        return PRICE if self.references else NOISE


def diagnose(patient: Patient, *, references: bool) -> Diagnosis:
    """`references`: what is expected are another program's masks of the same weights, else labels drawn by people."""
    search = _Search(patient, references, patient.order() if references else None)
    if not labelled(search.counts(Pipeline.of(patient.meta)).sum(axis=0), patient.meta.ignore_label).any():
        raise UsageError(
            f"no pixel of the {len(patient.photos)} masks or labels is labelled: all are {patient.meta.ignore_label}, "
            f"or outputs that --order left out; expected class ids from 0 to {len(patient.meta.classes) - 1}"
        )
    now = search.state(Pipeline.of(patient.meta), keep=True)
    as_is, found = now.plain, list[Try]()
    for _ in range(ROUNDS if references else 1):  # after the first, labels show the model's own errors
        if references and 1 - now.reached <= SAME:
            break
        step = search.best_change(now, {one.kind for one in found})
        if step is None:
            break
        changes, now = step
        found += [Try(mend.kind, mend.words, now.plain) for mend in changes]
    if now.reading is not None:
        found.append(Try(now.reading.kind, now.reading.words, now.reached))
    mended = now.reached if found else max([as_is, *(one.score for one in search.tries)])
    measure = AGREEMENT if references else MIOU
    return Diagnosis(
        measure, as_is, mended, tuple(found), tuple(search.tries), now.pipeline, now.reading, search.order,
        advice(patient.meta, now.pipeline),
        remarks(patient, search.order, now.reading, unexplained=references and 1 - mended > SAME),
    )  # fmt: skip
