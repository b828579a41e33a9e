"""Random materials for the rendered rooms: what floors, walls, woods, fabrics and so on tend to look like."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.rooms_mesh import Model
from training.rooms_texture import FINE, SMOOTH, VEINS, WOOD, Colour, Kind, surface

Array = NDArray[np.float64]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour as one sees it (hue 0 … 1) to linear RGB."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return r**2.2, g**2.2, b**2.2


def scaled(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(1.0, x * factor) for x in colour)
    return r, g, b


@dataclass(frozen=True)
class Look:
    """Draws materials with `rng` into `model`; each method returns the material's index."""

    model: Model
    rng: np.random.Generator

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def keep(self, kind: Kind, a: Colour, *more: Colour, along: bool = False, **options: object) -> int:
        row = surface(kind, a, *more, seed=self.uniform(0.01, 0.99), **options)  # type: ignore[arg-type]
        return self.model.material(row, along)

    # --- colours --------------------------------------------------------------------------------------------

    def wood_colour(self) -> Colour:
        pick = self.rng.random()
        if pick < 0.2:  # dark
            return hsv(self.uniform(0.01, 0.07), self.uniform(0.4, 0.75), self.uniform(0.16, 0.35))
        if pick < 0.8:  # oak to cherry
            return hsv(self.uniform(0.03, 0.11), self.uniform(0.35, 0.7), self.uniform(0.4, 0.8))
        if pick < 0.92:  # pale or grey
            return hsv(self.uniform(0.06, 0.12), self.uniform(0.05, 0.25), self.uniform(0.55, 0.88))
        return hsv(0.1, 0.05, self.uniform(0.82, 0.95))  # painted white

    def paint_colour(self) -> Colour:
        if self.chance(0.65):
            return hsv(self.uniform(0.05, 0.17), self.uniform(0.0, 0.25), self.uniform(0.72, 0.95))
        return hsv(self.uniform(0, 1), self.uniform(0.1, 0.55), self.uniform(0.3, 0.9))

    def cloth_colour(self) -> Colour:
        pick = self.rng.random()
        if pick < 0.35:
            return hsv(self.uniform(0, 1), self.uniform(0, 0.15), self.uniform(0.12, 0.95))
        if pick < 0.6:
            return hsv(self.uniform(0.02, 0.13), self.uniform(0.2, 0.6), self.uniform(0.2, 0.8))
        return hsv(self.uniform(0, 1), self.uniform(0.3, 0.9), self.uniform(0.2, 0.85))

    # --- materials ------------------------------------------------------------------------------------------

    def plain(self, colour: Colour, gloss: float = 0.0, glow: float = 0.0, rough: float = 0.03) -> int:
        return self.keep(Kind.PLAIN, colour, grain=(SMOOTH, rough, 1.5), gloss=gloss, glow=glow)

    def wood(self, colour: Colour | None = None) -> int:
        colour = colour or self.wood_colour()
        grain = (WOOD, self.uniform(0.05, 0.22), self.uniform(0.5, 1.2))
        return self.keep(Kind.PLAIN, colour, along=True, grain=grain, gloss=self.uniform(0, 0.3))

    def metal(self) -> int:
        colour = hsv(self.uniform(0.05, 0.6), 0.05, self.uniform(0.05, 0.8))
        return self.plain(colour, gloss=self.uniform(0.3, 1.0))

    def cloth(self, patterned: float = 0.3) -> int:
        a, b, c = self.cloth_colour(), self.cloth_colour(), self.cloth_colour()
        if not self.chance(patterned):
            weave = self.uniform(0.004, 0.02)
            leather = self.chance(0.25)
            return self.keep(
                Kind.FABRIC, a, line=0.0 if leather else weave, tone=self.uniform(0.02, 0.12),
                grain=(SMOOTH if leather else FINE, self.uniform(0.03, 0.1), 0.8), gloss=0.25 if leather else 0.0,
            )  # fmt: skip
        return self._pattern(a, b, c, self.uniform(0.05, 0.3))

    def _pattern(self, a: Colour, b: Colour, c: Colour, period: float) -> int:
        kind = (Kind.STRIPES, Kind.PLAID, Kind.DAMASK, Kind.DAMASK, Kind.DOTS)[self.rng.integers(5)]
        return self.keep(
            kind, a, b, c, size=(period, period * self.uniform(0.7, 1.4)), line=period * self.uniform(0.2, 0.6),
            tone=self.uniform(-0.3, 0.8) if kind == Kind.DAMASK else 0.1, grain=(FINE, 0.06, 0.8),
            angle=np.pi / 2 * self.rng.integers(2),
        )  # fmt: skip

    def floor(self) -> int:
        pick = self.rng.random()
        gloss, wood = self.uniform(0, 0.7), self.wood_colour()
        other = scaled(wood, self.uniform(0.6, 1.5))
        angle = np.pi / 2 * self.rng.integers(2) if self.chance(0.85) else self.uniform(0, 3)
        grain = (WOOD, self.uniform(0.08, 0.28), self.uniform(0.6, 1.6))
        if pick < 0.42:
            size = (self.uniform(0.5, 2.4), self.uniform(0.06, 0.22))
            kind = Kind.PLANKS if self.chance(0.88) else Kind.BASKET
            size = size if kind == Kind.PLANKS else (size[1] * 4, size[1])
            return self.keep(kind, wood, other, size=size, line=self.uniform(0.001, 0.006),
                             tone=self.uniform(0.2, 0.9), grain=grain, gloss=gloss, angle=angle)  # fmt: skip
        stone = hsv(self.uniform(0.03, 0.14), self.uniform(0.0, 0.4), self.uniform(0.35, 0.93))
        grout = scaled(stone, self.uniform(0.3, 1.1))
        veins = (VEINS if self.chance(0.3) else SMOOTH, self.uniform(0.04, 0.18), self.uniform(0.4, 2))
        if pick < 0.68:
            edge = self.uniform(0.15, 0.8)
            checker = float(self.chance(0.15))
            return self.keep(Kind.TILES, stone, grout, self.cloth_colour(), checker=checker, tone=self.uniform(0, 0.3),
                             size=(edge, edge * (1 if self.chance(0.7) else 2)), line=self.uniform(0.002, 0.012),
                             grain=veins, gloss=gloss, angle=angle + (np.pi / 4) * self.chance(0.2))  # fmt: skip
        if pick < 0.88:  # carpet
            carpet = self.cloth_colour() if self.chance(0.5) else stone
            if self.chance(0.15):
                return self._pattern(carpet, self.cloth_colour(), self.cloth_colour(), self.uniform(0.1, 0.5))
            return self.keep(
                Kind.FABRIC, carpet, grain=(FINE, self.uniform(0.1, 0.35), self.uniform(0.5, 1.5))
            )
        if pick < 0.95:  # concrete, linoleum
            return self.keep(Kind.PLAIN, stone, grain=(SMOOTH, self.uniform(0.05, 0.2), 2.5), gloss=gloss)
        period = self.uniform(0.25, 0.6)
        return self.keep(Kind.STONE, stone, grout, size=(period, period), line=0.02, tone=0.4, grain=veins)

    def wall(self) -> int:
        pick, paint = self.rng.random(), self.paint_colour()
        other = scaled(paint, self.uniform(0.55, 1.4))
        if pick < 0.66:
            return self.keep(
                Kind.PLAIN, paint, grain=(SMOOTH, self.uniform(0.0, 0.06), 3.0), gloss=self.uniform(0, 0.05)
            )
        if pick < 0.80:
            return self._pattern(paint, other, self.paint_colour(), self.uniform(0.08, 0.6))
        if pick < 0.86:
            brick = hsv(self.uniform(0.0, 0.06), self.uniform(0.1, 0.65), self.uniform(0.4, 0.85))
            return self.keep(Kind.TILES, brick, other, size=(0.23, 0.075), line=0.012, shift=0.5, tone=0.5,
                             grain=(FINE, 0.15, 0.7))  # fmt: skip
        if pick < 0.94:  # tiled wall
            edge = self.uniform(0.1, 0.4)
            return self.keep(Kind.TILES, paint, other, size=(edge, edge * self.uniform(0.5, 1.5)), line=0.006,
                             tone=self.uniform(0, 0.2), gloss=self.uniform(0, 0.5), grain=(SMOOTH, 0.08, 0.8),
                             shift=0.5 * self.chance(0.3))  # fmt: skip
        wood = self.wood_colour()  # boards
        return self.keep(Kind.PLANKS, wood, wood, size=(3.0, self.uniform(0.08, 0.2)), line=0.008,
                         tone=self.uniform(0, 0.5), grain=(WOOD, 0.12, 1.0), angle=np.pi / 2)  # fmt: skip

    def ceiling(self) -> int:
        white = hsv(self.uniform(0.05, 0.15), self.uniform(0, 0.12), self.uniform(0.8, 0.97))
        pick = self.rng.random()
        if pick < 0.1:
            grey = scaled(white, 0.6)
            return self.keep(
                Kind.TILES, white, grey, size=(0.6, 0.6), line=0.015, tone=0.05, grain=(FINE, 0.05, 0.6)
            )
        if pick < 0.18:
            wood = self.wood_colour()
            return self.keep(
                Kind.PLANKS, wood, wood, size=(3, 0.12), line=0.008, tone=0.4, grain=(WOOD, 0.12, 1.0)
            )
        return self.keep(Kind.PLAIN, white, grain=(SMOOTH, self.uniform(0, 0.05), 2.5))

    def front(self, width: float, height: float) -> int:
        """Cupboard doors or drawers of the given size."""
        colour = self.wood_colour() if self.chance(0.6) else self.paint_colour()
        knob = hsv(0.1, self.uniform(0, 0.4), self.uniform(0.1, 0.8))
        return self.keep(Kind.FRONT, colour, knob, size=(width, height), line=0.008, tone=self.uniform(-1, 1),
                         grain=(WOOD, 0.08, 0.9), gloss=self.uniform(0, 0.3))  # fmt: skip

    def books(self) -> int:
        return self.keep(Kind.BOOKS, self.cloth_colour(), self.cloth_colour(), self.cloth_colour(),
                         size=(self.uniform(0.025, 0.05), 0.3))  # fmt: skip

    def picture(self) -> int:
        return self.keep(Kind.PAINTING, self.cloth_colour(), self.cloth_colour(), self.cloth_colour(),
                         size=(self.uniform(0.3, 1), self.uniform(0.3, 1)), line=self.uniform(0.3, 2),
                         tone=0.2, gloss=self.uniform(0, 0.4))  # fmt: skip

    def clutter(self) -> int:
        cell = self.uniform(0.02, 0.12)
        return self.keep(Kind.CLUTTER, self.cloth_colour(), self.cloth_colour(), self.cloth_colour(),
                         size=(cell, cell * self.uniform(0.5, 1.5)), line=0.003)  # fmt: skip

    def outside(self, glow: float) -> int:
        sky = hsv(self.uniform(0.5, 0.62), self.uniform(0, 0.35), 1.0)
        green = hsv(self.uniform(0.18, 0.4), self.uniform(0.1, 0.6), self.uniform(0.25, 0.7))
        ground = hsv(self.uniform(0.05, 0.35), self.uniform(0.1, 0.5), self.uniform(0.3, 0.7))
        return self.keep(Kind.OUTSIDE, ground, green, sky, line=self.uniform(0.0, 4.0), glow=glow)

    def foliage(self) -> int:
        green = hsv(self.uniform(0.2, 0.38), self.uniform(0.35, 0.9), self.uniform(0.2, 0.65))
        return self.keep(
            Kind.PLAIN, green, grain=(SMOOTH, self.uniform(0.1, 0.35), 0.3), gloss=self.uniform(0, 0.3)
        )
