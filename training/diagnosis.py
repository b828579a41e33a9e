"""Which wrong assumption explains the gap between a model's masks and what they should be.

    found = diagnose(patient, references=True)
    print(found.words())

Every assumption is undone alone, and each together with every reading of the labels (which costs nothing more). What
closes most of the gap is kept, and the search goes on from there once more: that finds pairs, greedily.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

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
from training.diagnosis_scores import agreement, blind_agreement, blind_miou, miou, values_of
from training.finding import AGREEMENT, MIOU, NOISE, SAME, Diagnosis, Try
from training.patient import Patient

ROUNDS = 2
CLOSED = 0.3
"""Share of the gap to a reference that a change must close to be named."""
SURE = 0.0001
"""Likewise, and so little that nothing else needs to be tried: it could not be better by anything that counts."""
GAIN = 0.03
"""mIoU that a change must gain where labels were drawn by people: there the gap is mostly the model's."""
MOST_GAIN = 0.2
"""The most that is asked of a change that assumes many things, such as another order of the classes."""
PRICE = 0.002
"""Where masks are compared with masks: what each thing which a reading assumes must bring."""
CHOSEN = 2
"""Shares that another order of the classes must bring beyond a simpler reading: it is the best of very many."""
SEES = 0.1
"""Where masks are compared with masks: how much of the way from one class everywhere to all right a reading must go."""


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
            if self.better(state, reading, read):
                state = replace(state, reading=reading, reached=score, counts=read)
        return state

    def better(self, state: _State, reading: Reading, read: Counts) -> bool:
        """Whether a reading explains something, and more than the one that was found before it: of those that are as
        good, the one that assumes least stays."""
        score, before = self.score(read), state.reading.changes if state.reading else 0
        if score <= state.reached + self.price * (reading.changes - 1):
            return False
        if reading.certain and score > state.plain + PRICE:
            return True
        if (reading.vague and not self.references) or not self.sees(read):
            return False
        chosen = not self.references and 0 < before < reading.changes
        if chosen and not self.explains(state.counts, read, CHOSEN):
            return False
        return self.explains(self.counts(state.pipeline), read, reading.changes)

    @property
    def as_is(self) -> Counts:
        return self.counts(Pipeline.of(self.patient.meta))

    @cached_property
    def tells(self) -> bool:
        """Whether two classes or more are labelled: one alone can't tell who sees from who answers it everywhere."""
        return len(values_of(self.as_is, self.patient.meta.ignore_label)) > 1

    def blind(self, counts: Counts) -> float:
        measure = blind_agreement if self.references else blind_miou
        return measure(counts.sum(axis=0), self.patient.meta.ignore_label)

    def sees(self, counts: Counts) -> bool:
        """Whether more is right than with one class everywhere: what blinds the network explains nothing, nor what
        leaves but one class to be judged, as "the rest is unlabelled" does of floor and the rest."""
        if not self.tells:
            return True
        blind = self.blind(counts)
        return self.score(counts) > blind + (SEES * (1 - blind) if self.references else NOISE)

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
        """`chosen`, if it is better than what there is by more than chance.

        Against labels it is the best of many, so each thing that it assumes must bring its share, the change to the
        network also beyond what the same reading brings without it.
        """
        if chosen is None:
            return None
        mended, state = chosen
        if self.references or state.reading is None:
            parts, alone = len(mended), now.counts
        else:
            parts = len(mended) + (state.reading.changes if now.reading is None else 0)
            alone = state.reading.counts(self.counts(now.pipeline))
        if not self.references and not self.explains(alone, state.counts, len(mended)):
            return None
        return chosen if self.explains(now.counts, state.counts, parts) else None

    def worth(self, state: _State) -> float:
        return state.reached - (self.price * state.reading.changes if state.reading else 0)

    @property
    def price(self) -> float:
        return PRICE if self.references else NOISE


def diagnose(patient: Patient, *, references: bool) -> Diagnosis:
    """`references`: what is expected are another program's masks of the same weights, else labels drawn by people."""
    search = _Search(patient, references, patient.order() if references else None)
    if not values_of(search.as_is, patient.meta.ignore_label):
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
    blind = search.blind(search.as_is) if search.tells else 0.0
    unexplained = 1 - mended > SAME if references else not found
    return Diagnosis(
        measure, blind, as_is, mended, tuple(found), tuple(search.tries), now.pipeline, now.reading, search.order,
        advice(patient.meta, now.pipeline),
        remarks(patient, search.order, now.reading, tells=references or search.tells, unexplained=unexplained),
    )  # fmt: skip
