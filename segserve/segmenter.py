"""The served path, once: bytes -> photo -> input -> logits -> label map.

The handler, `training.evaluate` and the parity check of export all go through here, so what is measured is what is
served.

    from segserve.segmenter import Segmenter
    labels = Segmenter.load(Path("build/rooms")).segment(Path("photo.jpg").read_bytes())
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segserve.engines import Engine, Logits, load_engine
from segserve.geometry import Geometry
from segserve.image import MAX_PIXELS, decode, read
from segserve.mask import label_map
from segserve.resize import to_input
from segserve.spec import SPEC_FILE, ModelSpec


@dataclass(frozen=True)
class Prepared:
    """A photo's network input, uint8 (height, width, 3), how it lies there, and the photo itself if asked for.

    `photo`: uint8 (H, W, 3), upright, all its pixels.
    """

    input_hwc: NDArray[np.uint8]
    geometry: Geometry
    photo: NDArray[np.uint8] | None = None


class Segmenter:
    """A model spec and the engine that runs it."""

    def __init__(self, spec: ModelSpec, engine: Engine, max_pixels: int = MAX_PIXELS) -> None:
        self.spec, self.engine, self.max_pixels = spec, engine, max_pixels

    @classmethod
    def load(
        cls,
        folder: Path,
        threads: int = 0,
        max_pixels: int = MAX_PIXELS,
        *,
        fallback: bool = False,
        device_id: int = 0,
    ) -> Segmenter:
        """From a folder that holds model_spec.json and the chosen artefact; threads 0 means all cores.

        With `fallback`, a host that cannot run that artefact serves the next one of the folder that it can run.

        Raises SpecError or EngineError when the folder is not what export wrote, or nothing of it runs here.
        """
        spec = ModelSpec.load(folder / SPEC_FILE)
        engine = load_engine(spec, folder, threads, fallback=fallback, device_id=device_id)
        return cls(spec, engine, max_pixels)

    def prepare(self, data: bytes | bytearray, with_photo: bool = False) -> Prepared:
        """Decode and letterbox; with_photo keeps the photo at its full size, which only an overlay shows.

        Raises the subclasses of RequestError.
        """
        size = (self.spec.input.height, self.spec.input.width)
        photo = read(data, self.max_pixels, size)
        input_hwc, geometry = to_input(photo, *size)
        if not with_photo:
            return Prepared(input_hwc, geometry)
        # the network sees the same pixels whatever the answer's format: a reduced photo is decoded once more
        pixels = photo.upright() if photo.reduced == 1 else decode(data, self.max_pixels)
        return Prepared(input_hwc, geometry, pixels)

    def logits(self, prepared: Sequence[Prepared]) -> Logits:
        """One engine call for photos of any sizes: float32 or float16 (N, num_classes, h, w)."""
        if len(prepared) == 1:
            return self.engine(prepared[0].input_hwc[np.newaxis])  # no copy
        return self.engine(np.stack([item.input_hwc for item in prepared]))

    def labels(self, logits_chw: Logits, prepared: Prepared) -> NDArray[np.uint8]:
        """The label map of one photo at its own size, uint8 (H, W)."""
        return label_map(logits_chw, prepared.geometry, self.spec.align_corners)

    def segment(self, data: bytes | bytearray) -> NDArray[np.uint8]:
        """Image bytes to label map, uint8 (H, W) at the photo's upright size."""
        prepared = self.prepare(data)
        return self.labels(self.logits([prepared])[0], prepared)
