"""Networks for the doctor to look at: as they are, and after a conversion that went wrong."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.sabotage import Sabotage
from training import pspnet
from training.assumptions import Pipeline
from training.meta import CheckpointMeta
from training.patient import Patient

Pixels = NDArray[np.uint8]


def file(pixels: Pixels, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def expecting_itself(
    model: pspnet.PSPNet, meta: CheckpointMeta, rooms: list[tuple[Pixels, Pixels]]
) -> Patient:
    photos = [file(image) for image, _ in rooms]
    patient = Patient(model, meta, photos, [])
    return replace(patient, expected=patient.masks(Pipeline.of(meta)))


def converted(patient: Patient, sabotage: Sabotage) -> Patient:
    """A copy of the network after the sabotage, with the expectations from before."""
    model = pspnet.build(patient.meta.preset, len(patient.meta.classes), layout=patient.meta.layout).eval()
    model.load_state_dict(patient.model.state_dict(), strict=False)
    meta = sabotage(model, patient.meta) or patient.meta
    return Patient(model, meta, patient.photos, patient.expected)
