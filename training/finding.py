"""What a diagnosis found, and how it is said.

print(diagnose(patient, references=True).words())
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.assumptions import Pipeline, Reading

AGREEMENT, MIOU = "agreement", "mIoU"
SAME = 0.001
"""A share of pixels that differ from a reference's: no gap left to explain."""
NOISE = 0.01
"""mIoU by which a later one of the changes must be better (those come first that are made most often), and that each
thing which a reading assumes must bring."""


@dataclass(frozen=True)
class Try:
    """A row of the report: what was changed, and the score with it (0 to 1)."""

    kind: str
    words: str
    score: float


@dataclass(frozen=True)
class Diagnosis:
    """`found`: the changes that explain the gap, most telling first. `tries`: everything that was tried.

    `blind`: what the commonest class everywhere would score; 0 where only one is labelled.

    `pipeline` and `reading` are those with the gap closed; `reading` None: labels are read as they are. `order`: how
    the original's masks were read before that. `advice`: options to import again with; `remarks`: whole sentences.
    """

    measure: str
    blind: float
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
        return not self.found and (self.sees if self.measure == MIOU else 1 - self.as_is <= SAME)

    @property
    def sees(self) -> bool:
        """Whether the model tells more than one class everywhere would."""
        return self.as_is > self.blind + NOISE

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
        words = f"none of the usual assumptions explains it: {score}, {100 * self.mended:.2f} % at best."
        blind = f" The commonest class everywhere would have {100 * self.blind:.2f} %."
        return words if self.measure == AGREEMENT else words + blind

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
