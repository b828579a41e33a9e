"""The right label map of each photo, for each version that answered: what the load test holds every answer against.

masks = Masks(num_classes=13)
masks.check(photo, answer, ("png", "json"))  # CheckFailed where it is not that version's mask
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge import Answer, check_type, judge, read_labels, read_overlay, read_png, require_same
from benchmarks.photos import Photo
from benchmarks.progress import told
from benchmarks.truth import Truth
from deploy.asking import least_agreement
from segserve.errors import CheckFailed
from segserve.request import CONTENT_TYPES


class Masks:
    """Learnt from the first answer of a photo and version, or expected of a package.

    A body that was right before is right again: of PNG, npy and overlay, equal bytes are not read twice, so that the
    client has time for the next request.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._known: dict[tuple[str, str], Truth] = {}
        self._colours: dict[str, NDArray[np.uint8]] = {}
        self._names: dict[str, dict[int, str]] = {}
        self._golden: dict[tuple[str, str], NDArray[np.uint8]] = {}
        self._right: dict[tuple[str, str, str], bytes] = {}

    def expect(self, photo: str, version: str, labels: NDArray[np.uint8]) -> None:
        """What the checkpoint of that version makes of the photo, from its package: its masks must be like this.

        Not to the last pixel: an engine may differ from the checkpoint by as much as a rollout lets pass.
        """
        self._golden[photo, version] = labels

    def expect_names(self, version: str, names: Sequence[str]) -> None:
        """Of that version's classes, in label order, from its package; without it, what its first answers say."""
        self._names[version] = dict(enumerate(names))

    def make_ready(self, formats: Collection[str]) -> None:
        """Do now, before the load, the work of judging that needs doing once."""
        for truth in told(list(self._known.values()), "masks that answers will be compared with"):
            truth.make_ready(formats)

    def check(self, photo: Photo, answer: Answer, asked: Collection[str] = tuple(CONTENT_TYPES)) -> None:
        """Judge an answer for that photo. asked: the formats that this load asks for. Raises: CheckFailed.

        Of a version that is new, the first label map, in whatever format, is taken as the right one if it is like that
        of `expect`, or if there is none. Overlays show no label map: they pass until one is known, and a PNG has told
        the version's colours, if a PNG is to come.
        """
        check_type(answer)
        key = photo.name, answer.version
        digest = hashlib.blake2b(answer.body, digest_size=16).digest()
        if self._right.get((*key, answer.format)) == digest:
            return
        truth = self._truth(photo, answer)
        if truth is None or (answer.format == "overlay" and answer.version not in self._colours):
            _require_whole(photo, answer, asked)
            return
        judge(answer, truth, self._names.setdefault(answer.version, {}))
        self._known[key] = truth
        if answer.format != "json":  # which holds times, so it is never the same
            self._right[*key, answer.format] = digest

    def _truth(self, photo: Photo, answer: Answer) -> Truth | None:
        """What is known of the photo and version, or what this answer says itself; None if it is an overlay then."""
        size, key = (photo.height, photo.width), (photo.name, answer.version)
        if answer.format == "png" and answer.version not in self._colours:
            self._colours[answer.version] = read_png(answer, size, self.num_classes)[1]
        truth = self._known.get(key)
        if truth is None and answer.format != "overlay":
            labels = read_labels(answer, size, self.num_classes)
            self._like_golden(key, labels, answer)
            truth = Truth(photo, labels, np.zeros((self.num_classes, 3), np.uint8))
        if truth is not None:
            truth.colours = self._colours.get(answer.version, truth.colours)
        return truth

    def _like_golden(self, key: tuple[str, str], mask: NDArray[np.uint8], answer: Answer) -> None:
        golden = self._golden.get(key)
        if golden is None:
            return
        require_same(mask.shape, golden.shape, "size of the golden mask")
        least = least_agreement(answer.engine)
        if (agreement := float((mask == golden).mean())) < least:
            raise CheckFailed(
                f"not the mask of the package of version {answer.version}: {100 * agreement:.2f} % of the pixels of "
                f"{key[0]} have the right class, {100 * least:.1f} % are expected of {answer.engine or 'any engine'}"
            )

    def require_content(self) -> None:
        """A server that finds the same single class in every photo segments nothing. Raises: CheckFailed."""
        if len({int(label) for truth in self._known.values() for label in np.unique(truth.labels)}) < 2:
            raise CheckFailed("all masks together hold one class only: nothing was segmented")


def _require_whole(photo: Photo, answer: Answer, asked: Collection[str]) -> None:
    """All that can be said of an overlay whose mask or colours are not known yet. Raises: CheckFailed."""
    read_overlay(answer, (photo.height, photo.width))
    if "png" not in asked:
        raise CheckFailed(
            f"overlay: nothing tells what version {answer.version} shows; ask for png as well (--formats)"
        )
