"""The evaluation as a page: figures, confusions, and the photos that came out worst, with what was taken for what.

report = Report(dataset, palette_rgb)
report.take(seen)                              # for each photo
report.write(Path("out/report"), facts, matrix)    # report.html, report.json, confusion.svg
"""

from __future__ import annotations

import base64
import heapq
import io
import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve import encode
from training.confusions import pairs, svg
from training.data import Dataset, read_image
from training.description import shown
from training.metrics import ConfusionMatrix
from training.quality import BoundaryScore, Calibration
from training.seen import Seen

WORST = 12
THUMB_SIDE = 380
WRONG_RGB = (220, 30, 60)
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .8rem; border-bottom: 1px solid var(--line); }
td:not(:first-child), th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.2rem 0; padding: .6rem; background: var(--soft); border-radius: .4rem; }
figure div { display: flex; gap: .4rem; flex-wrap: wrap; } figure img { max-width: 24%; min-width: 10rem; }
i { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: .2em; }
figcaption { margin-bottom: .4rem; } .big { font-size: 1.3rem; font-weight: 600; } .note { opacity: .7; }
"""


class Report:
    """Takes each photo as it is evaluated and keeps the worst."""

    def __init__(self, dataset: Dataset, palette_rgb: NDArray[np.uint8]) -> None:
        self.dataset, self.palette_rgb = dataset, palette_rgb
        self.boundary = BoundaryScore(dataset.num_classes, dataset.ignore_label)
        self.calibration = Calibration()
        self.worst: list[tuple[float, int, Seen]] = []
        self.taken = 0

    def take(self, seen: Seen) -> None:
        """Count boundaries and confidence; keep the photo if its share of wrong pixels is among the largest."""
        counted = seen.label != self.dataset.ignore_label
        right = seen.mask == seen.label
        self.boundary.update(seen.label, seen.mask)
        if seen.confidence is not None:
            self.calibration.update(seen.confidence, right, counted)
        wrong = float((counted & ~right).sum() / max(1, counted.sum()))
        self.taken += 1  # between equals decides which came first: photos can't be compared
        heapq.heappush(self.worst, (wrong, -self.taken, Seen(seen.sample, seen.label, seen.mask)))
        if len(self.worst) > WORST:
            heapq.heappop(self.worst)

    def write(self, folder: Path, facts: Mapping[str, Any], matrix: ConfusionMatrix) -> dict[str, Any]:
        """Write the files. Returns: what the report knows beyond the facts, for JSON."""
        scores = zip(self.dataset.classes, self.boundary.f_scores(), strict=True)
        found = {
            "boundary_f1": _number(self.boundary.f_score()),
            "boundary_f1_classes": {name: _number(score) for name, score in scores},
            "calibration_error": _number(self.calibration.error()),
            "calibration": self.calibration.bins(),
            "confusion": matrix.counts.tolist(),
            "worst": [
                {"image": str(seen.sample.image), "wrong": wrong, "most": self._most(seen)}
                for wrong, _, seen in sorted(self.worst, reverse=True)
            ],
        }
        picture = svg(matrix.counts, self.dataset.classes)
        (folder / "confusion.svg").write_text(picture, encoding="utf-8")
        (folder / "report.json").write_text(
            json.dumps({**facts, **found}, indent=2, allow_nan=False), encoding="utf-8"
        )
        (folder / "report.html").write_text(self._page({**facts, **found}, matrix, picture), encoding="utf-8")
        return found

    def _most(self, seen: Seen) -> str:
        """The commonest mistake in a photo."""
        matrix = ConfusionMatrix(self.dataset.num_classes, self.dataset.ignore_label)
        matrix.update(seen.label, seen.mask)
        wrong = matrix.counts.copy()
        np.fill_diagonal(wrong, 0)
        if not wrong.any():
            return "nothing wrong"
        label, found = np.unravel_index(int(wrong.argmax()), wrong.shape)
        share = wrong[label, found] / matrix.counts.sum()
        return f"{self.dataset.classes[label]} taken for {self.dataset.classes[found]}: {100 * share:.1f} %"

    def _page(self, facts: Mapping[str, Any], matrix: ConfusionMatrix, picture: str) -> str:
        title = shown(f"{Path(facts['what']).name} on {facts['data']} {facts['split']}")
        return "\n".join(
            [
                "<!doctype html><html lang=en><meta charset=utf-8>",
                f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>",
                f"<p>{facts['images']} of {facts['images_in_split']} photos, {escape(_ways(facts['ways']))}, engine "
                f"{escape(facts['engine'])} on {escape(facts['device'])}.</p>",
                f"<p><span class=big>{_percent(facts['miou'])} mIoU</span>, {_percent(facts['allacc'])} of all pixels "
                f"right, boundaries F1 {_percent(facts['boundary_f1'])}, calibration error "
                f"{_percent(facts['calibration_error'])}.</p>",
                self._classes(facts),
                "<h2>What is taken for what</h2>",
                self._pairs(matrix),
                f"<p class=note>Rows: label; columns: prediction; % of the label's pixels.</p>{picture}",
                f"<h2>The worst {len(self.worst)} photos</h2><p class=note>Photo, label, prediction, wrong pixels in "
                "red.</p>",
                *(self._figure(wrong, seen) for wrong, _, seen in sorted(self.worst, reverse=True)),
                "</html>",
            ]
        )

    def _classes(self, facts: Mapping[str, Any]) -> str:
        colours = dict(zip(self.dataset.classes, self.palette_rgb.tolist(), strict=True))
        rows = []
        for name, row in facts["classes"].items():
            red, green, blue = colours[name]
            figures = (row["iou"], row["accuracy"], facts["boundary_f1_classes"][name], row["share"])
            cells = "".join(f"<td>{_percent(value)}" for value in figures)
            swatch = f'<i style="background: rgb({red}, {green}, {blue})"></i>'
            rows.append(f"<tr><td>{swatch}{escape(name)}{cells}")
        head = "<tr><th>class<th>IoU<th>accuracy<th>boundary F1<th>share of pixels"
        return f"<table>{head}{''.join(rows)}</table>"

    def _pairs(self, matrix: ConfusionMatrix) -> str:
        names = self.dataset.classes
        rows = [
            f"<tr><td>{escape(names[p.first])} / {escape(names[p.second])}<td>{100 * p.share:.2f} %"
            f"<td>{p.miou_points:.2f}"
            for p in pairs(matrix)[:8]
        ]
        return (
            f"<table><tr><th>pair<th>share of pixels<th>points of mIoU that it costs{''.join(rows)}</table>"
        )

    def _figure(self, wrong: float, seen: Seen) -> str:
        photo = read_image(seen.sample.image)
        step = max(1, math.ceil(max(photo.shape[:2]) / THUMB_SIDE))
        photo, label, mask = (np.ascontiguousarray(x[::step, ::step]) for x in (photo, seen.label, seen.mask))
        missed = photo // 3 + 80
        missed[(mask != label) & (label != self.dataset.ignore_label)] = WRONG_RGB
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=85)
        looks = [buffer.getvalue(), *(encode.overlay_jpeg(photo, x, self.palette_rgb) for x in (label, mask))]
        buffer = io.BytesIO()
        Image.fromarray(missed).save(buffer, "JPEG", quality=85)
        pictures = "".join(
            f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" alt="">'
            for jpeg in (*looks, buffer.getvalue())
        )
        caption = (
            f"{escape(shown(seen.sample.image.name))}: {100 * wrong:.1f} % wrong; {escape(self._most(seen))}"
        )
        return f"<figure><figcaption>{caption}</figcaption><div>{pictures}</div></figure>"


def _ways(ways: str | Mapping[str, Any]) -> str:
    if isinstance(ways, str):
        return ways
    flip, sliding = (", mirrored too" if ways["flip"] else ""), (", in windows" if ways["sliding"] else "")
    return f"at scales {', '.join(f'{scale:g}' for scale in ways['scales'])}{flip}{sliding}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
