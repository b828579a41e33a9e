"""A bar chart for the README: images/s of every server, drawn with Pillow because matplotlib is 30 MB for five bars.

draw([("segserve", 41.2, ""), ("LitServe", 1.3, "32 x slower")], "images/s, …", Path("docs/peers.png"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, ROW, BAR = 1200, 30, 64, 36
LABELS, NOTES = 380, 260
"""Pixels left of the bars for names, right of them for figures."""
INK, PAPER, OURS, OTHERS = (31, 35, 40), (255, 255, 255), (9, 105, 218), (140, 149, 159)


def draw(bars: Sequence[tuple[str, float, str]], title: str, path: Path) -> None:
    """Write a PNG: name, images/s and a note for each bar, ours first; lengths are to scale, from zero."""
    heading, text = ImageFont.load_default(24), ImageFont.load_default(22)
    image = Image.new("RGB", (WIDTH, 3 * MARGIN + 24 + ROW * len(bars)), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN), title, INK, heading)
    longest = max(rate for _, rate, _ in bars)
    for number, (name, rate, note) in enumerate(bars):
        top = 2 * MARGIN + 24 + ROW * number
        length = round((WIDTH - 2 * MARGIN - LABELS - NOTES) * rate / longest)
        start = MARGIN + LABELS
        pen.text((start - 14, top + BAR / 2), name, INK, text, anchor="rm")
        pen.rectangle((start, top, start + max(2, length), top + BAR), OTHERS if number else OURS)
        figure = f"{rate:.3g}" + (f"   {note}" if note else "")
        pen.text((start + max(2, length) + 12, top + BAR / 2), figure, INK, text, anchor="lm")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
