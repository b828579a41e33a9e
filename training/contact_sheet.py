"""One picture of many pairs, each photo tinted with its label: wrong labels are seen in a minute, not in four days.

Each class is shown where it is largest, the rarest classes first; then pairs that have a note, then others.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segserve import encode, image
from segserve.labels import IGNORE_LABEL, palette
from training.pairs import Checked
from training.spread import spread

TILES, COLUMNS = 48, 6
TILE_WIDTH, TILE_HEIGHT, CAPTION_HEIGHT, GAP = 256, 192, 18, 4
LEGEND_WIDTH, FONT_SIZE = 192, 12
GREY, INK = (235, 235, 235), (20, 20, 20)
EACH_CLASS = 2  # pictures of it, if there are so many


def choose(pairs: Sequence[Checked]) -> list[Checked]:
    """At most TILES of them."""
    if len(pairs) <= TILES:
        return list(pairs)
    pixels = np.array([pair.pixels for pair in pairs], np.float64)
    shares = pixels / (pixels.sum(axis=1) + [pair.ignored for pair in pairs])[:, None]
    wanted: list[int] = []
    for label in np.argsort(pixels.sum(axis=0), kind="stable"):
        best = np.argsort(-shares[:, label], kind="stable")[:EACH_CLASS]
        wanted += [int(index) for index in best if shares[index, label] > 0]
    wanted += [index for index, pair in enumerate(pairs) if pair.note]
    chosen = list(dict.fromkeys(wanted))[:TILES]
    others = [index for index in range(len(pairs)) if index not in set(chosen)]
    chosen += spread(others, TILES - len(chosen))
    return [pairs[index] for index in chosen]


def draw(pairs: Sequence[Checked], classes: Sequence[str]) -> Image.Image:
    """The sheet."""
    columns = min(COLUMNS, max(2, len(pairs)))
    rows = -(-len(pairs) // columns)
    width = columns * (TILE_WIDTH + GAP)
    in_row = max(1, width // LEGEND_WIDTH)
    legend_height = -(-len(classes) // in_row) * CAPTION_HEIGHT + 6
    sheet = Image.new("RGB", (width, legend_height + rows * (TILE_HEIGHT + CAPTION_HEIGHT)), GREY)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for label, (name, colour) in enumerate(zip(classes, palette(len(classes)).tolist(), strict=True)):
        left, top = label % in_row * LEGEND_WIDTH + 4, label // in_row * CAPTION_HEIGHT + 4
        pen.rectangle((left, top, left + 20, top + 12), fill=tuple(colour))
        pen.text((left + 26, top - 1), _cut(name, LEGEND_WIDTH - 34, font), INK, font)
    for index, pair in enumerate(pairs):
        left = index % columns * (TILE_WIDTH + GAP)
        top = legend_height + index // columns * (TILE_HEIGHT + CAPTION_HEIGHT)
        sheet.paste(tile(pair.image, pair.label, len(classes)), (left, top))
        caption = f"{pair.split} {pair.name}{' (see notes)' if pair.note else ''}"
        pen.text((left + 4, top + TILE_HEIGHT + 1), _cut(caption, TILE_WIDTH - 8, font), INK, font)
    return sheet


def tile(image_path: Path, label_path: Path, num_classes: int) -> Image.Image:
    """One overlay, fitted into TILE_WIDTH x TILE_HEIGHT; ignored pixels stay as they are."""
    photo = image.read(image_path.read_bytes(), input_size=(TILE_HEIGHT, TILE_WIDTH))
    scale = min(TILE_WIDTH / photo.width, TILE_HEIGHT / photo.height)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    rgb = np.asarray(Image.fromarray(photo.upright()).resize(size, Image.Resampling.BILINEAR))
    with Image.open(label_path, formats=["PNG"]) as label:
        small = np.asarray(label.resize(size, Image.Resampling.NEAREST))
    small = np.where(
        small < num_classes, small, np.uint8(IGNORE_LABEL)
    )  # so does what is only said not to be some
    shown = Image.open(io.BytesIO(encode.overlay_jpeg(rgb, small, palette(num_classes))))
    framed = Image.new("RGB", (TILE_WIDTH, TILE_HEIGHT), GREY)
    framed.paste(shown, ((TILE_WIDTH - size[0]) // 2, (TILE_HEIGHT - size[1]) // 2))
    return framed


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of a file's name says more than its beginning."""
    while text and font.getlength(text) > width:
        text = text[1:]
    return text
