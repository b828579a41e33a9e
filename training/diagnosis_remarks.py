"""What a diagnosis says besides what was found: options to import again with, and what was not looked at."""

from __future__ import annotations

from dataclasses import replace

from training.assumptions import Pipeline, Reading, rearranged
from training.meta import CheckpointMeta
from training.patient import Patient, options

NOT_TRIED = "windows, flips, several scales, another output stride, TensorFlow's same padding"


def advice(meta: CheckpointMeta, final: Pipeline) -> str:
    """Options of the importer that make a checkpoint with `final`; empty where it is the same, or not imported.

    The importer takes a std below 1 for one of pixels of 0 to 1, and does not believe that it is of 0 to 255: then all
    is said of pixels of 0 to 1.
    """
    if max(final.std) >= 1:
        return options(meta, final)
    (a, b, c), (d, e, f) = final.mean, final.std
    said = options(meta, replace(final, mean=(a / 255, b / 255, c / 255), std=(d / 255, e / 255, f / 255)))
    return f"{said.replace(' --pixel-scale 255', '')} --pixel-scale 1" if "--std" in said else said


def remarks(
    patient: Patient, order: Reading | None, reading: Reading | None, *, tells: bool, unexplained: bool
) -> tuple[str, ...]:
    """Whole sentences. `order`: how the original's masks were read; `reading`: how labels are, as found; `tells`:
    whether what is labelled tells a network that sees from one that does not."""
    meta = patient.meta
    said = [patient.odd_sizes()]
    if not tells:
        said.append(
            "Only one class is labelled in these, which does not tell a network that sees from one that answers it "
            "everywhere: take photos and masks of others too."
        )
    if unexplained:
        said.append(
            f"Not tried: an input of another size than {meta.input_width}x{meta.input_height}, {NOT_TRIED}."
        )
        said.append(_other_weights(meta.provenance.get("taken_from", "")))
    if order is not None:
        said.append(f"Taken into account: {order.words}.")
    elif reading is not None and rearranged(meta) is not None:
        said.append(
            "The outputs were rearranged with --order at the import: labels in the original's order are then expected "
            "to look so."
        )
    return tuple(filter(None, said))


def _other_weights(taken_from: str) -> str:
    if ", not " not in taken_from:
        return ""
    return (
        f"The file that it was imported from also held other weights (taken: {taken_from}): if the masks were made "
        "with those, import them with --take."
    )
