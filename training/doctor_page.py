"""The doctor's finding as one HTML file: photo, mask as is, mask mended, and what was expected, side by side.

Path("doctor.html").write_text(page(patient, diagnosis, "converted.safetensors"))
"""

from __future__ import annotations

import base64
import html
import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve.encode import overlay_jpeg
from segserve.image import read
from segserve.labels import palette
from training.assumptions import Pipeline
from training.finding import Diagnosis
from training.patient import Patient, fitted

Pixels = NDArray[np.uint8]
SHOWN = 4
WIDTH = 360
STYLE = """body{font:15px/1.5 sans-serif;max-width:1500px;margin:2em auto;padding:0 1em;color:#222}
.finding{font-size:1.2em;border-left:6px solid #c33;padding:.5em 1em;background:#f6f3f0}
.finding.healthy{border-color:#393}td,th{padding:2px 10px;text-align:left;vertical-align:top}
td.n{text-align:right}.bar{background:#67a;height:.8em;display:inline-block}
.row{display:flex;flex-wrap:wrap;gap:8px;margin:1em 0}figure{margin:0}figcaption{font-size:.85em;color:#555}"""


def page(patient: Patient, found: Diagnosis, name: str) -> str:
    """A whole page that needs no other file."""
    healthy = " healthy" if found.healthy else ""
    rows = "".join(
        _row(one.kind, one.words, one.score) for one in sorted(found.tries, key=lambda t: -t.score)
    )
    as_is = Pipeline.of(patient.meta)
    shown = replace(patient, photos=patient.photos[:SHOWN], expected=patient.expected[:SHOWN])
    before = shown.masks(as_is)
    after = before if found.pipeline == as_is else shown.masks(found.pipeline)
    pictures = "".join(
        _pictures(patient, index, *masks, found)
        for index, masks in enumerate(zip(before, after, strict=True))
    )
    return (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(name)}</title><style>{STYLE}</style>'
        f"<h1>{html.escape(name)}</h1>"
        f'<p class="finding{healthy}">{html.escape(found.words())}</p>{pictures}'
        f"<h2>Everything that was tried</h2><table><tr><th>undone<th>how<th>{found.measure} %<th></tr>"
        f"{_row('nothing', 'as the checkpoint says', found.as_is)}{rows}</table>"
    )


def _row(kind: str, words: str, score: float) -> str:
    bar = f'<span class="bar" style="width:{200 * score:.0f}px"></span>'
    cells = f"<td>{html.escape(kind)}<td>{html.escape(words)}"
    return f'<tr>{cells}<td class="n">{100 * score:.2f}<td>{bar}</tr>'


def _pictures(patient: Patient, index: int, before: Pixels, after: Pixels, found: Diagnosis) -> str:
    photo = read(patient.photos[index])
    upright, stored = photo.upright(), np.array(photo.rgb)
    shown = upright if found.pipeline.upright else stored
    expected = fitted(found.read_labels(patient.expected[index]), after)
    colours = palette(len(patient.meta.classes))
    figures = [
        ("photo", _jpeg(upright)),
        ("as is", overlay_jpeg(upright, before, colours)),
        ("mended" if found.found else "as is, too: nothing was found", overlay_jpeg(shown, after, colours)),
        ("expected", overlay_jpeg(shown, expected, colours)),
    ]
    return '<div class="row">' + "".join(_figure(caption, data) for caption, data in figures) + "</div>"


def _jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def _figure(caption: str, data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((WIDTH, 2 * WIDTH))
        small = _jpeg(np.asarray(image))
    source = base64.b64encode(small).decode()
    return f'<figure><img src="data:image/jpeg;base64,{source}"><figcaption>{caption}</figcaption></figure>'
