"""What decoding large JPEGs at a fraction of their size changes: the checkpoint's labels with it and without.

Checkpoint and artefact are fed the same pixels, so a comparison of the two cannot show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from export.cases import Case
from segserve.image import read
from segserve.resize import to_input
from segserve.segmenter import Prepared, Segmenter

MAX_PHOTOS = 12
"""Each is decoded whole and segmented once more: enough of them for a figure, not a second comparison."""


def figures(cases: Sequence[Case], reference: Segmenter) -> dict[str, Any]:
    """Over the first MAX_PHOTOS cases decoded at a reduced size. Only the number of photos, 0, if there are none.

    label_agreement: share of their pixels with the same class, lowest_label_agreement: in one photo;
    input_difference: mean difference of the network's inputs, on 0..255.
    """
    size = (reference.spec.input.height, reference.spec.input.width)
    agreeing = pixels = 0
    differences: list[float] = []
    shares: list[float] = []
    names: list[str] = []
    for case in cases:
        if not isinstance(case.content, bytes) or len(shares) == MAX_PHOTOS:
            continue
        served = read(case.content, reference.max_pixels, size)
        if served.reduced == 1:
            continue
        whole = Prepared(*to_input(read(case.content, reference.max_pixels), *size))
        labels = reference.labels(reference.logits([whole])[0], whole)
        same = int(np.count_nonzero(labels == case.labels))
        agreeing, pixels = agreeing + same, pixels + labels.size
        shares.append(same / labels.size)
        names.append(case.name)
        input_hwc, _ = to_input(served, *size)
        differences.append(float(np.abs(input_hwc.astype(np.int16) - whole.input_hwc).mean()))
    if not shares:
        return {"photos": 0}
    lowest = int(np.argmin(shares))
    return {
        "photos": len(shares),
        "label_agreement": agreeing / pixels,
        "lowest_label_agreement": shares[lowest],
        "lowest_at": names[lowest],
        "input_difference": float(np.mean(differences)),
    }
