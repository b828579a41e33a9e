"""model_spec.json: everything a server must know of a model, written by export and packed into the .mar.

The spec ties together the weights (sha256 of every artefact), the pixels they expect (size, mean, std), the meaning
of their outputs (classes, stride, align_corners) and the proof that they segment like the checkpoint (parity).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segserve.errors import SpecError

SCHEMA = 1
SPEC_FILE = "model_spec.json"
PARITY_FILE = "parity.json"


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces. Raises SpecError if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}. Export the model again.") from None


def artefact_name(engine: str, precision: str) -> str:
    """The engine for float32, ENGINE-PRECISION for the rest, as in "onnx-int8": what --engine is given."""
    return engine if precision == "fp32" else f"{engine}-{precision}"


@dataclass(frozen=True)
class InputSpec:
    """What the network is fed: uint8 RGB of height x width; (x - mean) / std happens inside the artefact."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        _require(
            self,
            height=("an integer from 1 to 8192", _is_int(self.height, 1, 8192)),
            width=("an integer from 1 to 8192", _is_int(self.width, 1, 8192)),
            mean=("three numbers", _are_numbers(self.mean)),
            std=("three numbers above 0", _are_numbers(self.std) and min(self.std) > 0),
        )


@dataclass(frozen=True)
class Artefact:
    """One exported file, by content, and the engine and precision that it is run with.

    Several may share a file: ONNX Runtime and OpenVINO both read model.onnx.
    """

    file: str
    engine: str
    precision: str
    sha256: str
    num_bytes: int
    needs_int8_dot: bool = False
    """Its weights fill 8 bits: right only where the CPU adds products of 8 bits up in 32 (segserve.cpu)."""
    floats: str | None = None
    """What OpenVINO's int8 was proven with in the layers that are not int8: "f32" or "bf16". None where precision says
    it, and in packages of before: those take what the processor has."""

    @property
    def name(self) -> str:
        """As --engine and the reports have it."""
        return artefact_name(self.engine, self.precision)

    @property
    def fixed_size(self) -> bool:
        """Whether it takes only the spec's height and width."""
        return self.engine in ("tensorrt", "onnx_tensorrt")

    def __post_init__(self) -> None:
        _require(
            self,
            file=("a plain file name beside the spec", _is_file_name(self.file)),
            engine=("a name", _is_text(self.engine)),
            precision=("a name", _is_text(self.precision)),
            sha256=("64 hexadecimal digits", _is_sha256(self.sha256)),
            num_bytes=("an integer from 0", _is_int(self.num_bytes, 0, sys.maxsize)),
            needs_int8_dot=("true or false", isinstance(self.needs_int8_dot, bool)),
            floats=("f32, bf16 or null", self.floats in (None, "f32", "bf16")),
        )


@dataclass(frozen=True)
class Golden:
    """A photo and the mask (palette PNG of class ids, at its upright size) that the checkpoint makes of it."""

    photo: str
    photo_sha256: str
    mask: str
    mask_sha256: str

    def __post_init__(self) -> None:
        _require(
            self,
            photo=("a plain file name beside the spec", _is_file_name(self.photo)),
            mask=("a plain file name beside the spec", _is_file_name(self.mask)),
            photo_sha256=("64 hexadecimal digits", _is_sha256(self.photo_sha256)),
            mask_sha256=("64 hexadecimal digits", _is_sha256(self.mask_sha256)),
        )

    def files(self) -> dict[str, str]:
        """File name → sha256."""
        return {self.photo: self.photo_sha256, self.mask: self.mask_sha256}


@dataclass(frozen=True)
class ModelSpec:
    """The served model. Colours are RGB 0..255, one per class.

    `engine` names the artefact that is served ("onnx", "openvino-int8"). `artefacts` stand in the order in which they
    are to be tried where that one cannot run. `choice` is how it was chosen: the measured table of export.choose.
    `golden` are photos whose masks are known: what a rollout asks a new version first.
    """

    name: str
    version: str
    preset: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_label: int
    input: InputSpec
    stride: int
    align_corners: bool
    artefacts: tuple[Artefact, ...]
    engine: str
    checkpoint_sha256: str
    versions: dict[str, str]
    parity: dict[str, Any]
    choice: dict[str, Any] = dataclasses.field(default_factory=dict)
    golden: tuple[Golden, ...] = ()

    def __post_init__(self) -> None:
        _require(
            self,
            name=("a name", _is_text(self.name)),
            version=("a version such as 1.0", _is_text(self.version)),
            preset=("a name", _is_text(self.preset)),
            classes=(
                "1 to 255 different names",
                all(map(_is_text, self.classes)) and 1 <= len(set(self.classes)) == len(self.classes) <= 255,
            ),
            palette=(
                f"{len(self.classes)} colours, three integers from 0 to 255 each",
                len(self.palette) == len(self.classes)
                and all(
                    len(colour) == 3 and all(_is_int(c, 0, 255) for c in colour) for colour in self.palette
                ),
            ),
            ignore_label=("an integer from 0 to 255", _is_int(self.ignore_label, 0, 255)),
            stride=("an integer from 1 to 64", _is_int(self.stride, 1, 64)),
            align_corners=("true or false", isinstance(self.align_corners, bool)),
            engine=("a name", _is_text(self.engine)),
            checkpoint_sha256=("64 hexadecimal digits", _is_sha256(self.checkpoint_sha256)),
            versions=(
                "names with versions",
                isinstance(self.versions, dict) and all(map(_is_text, self.versions.values())),
            ),
            parity=("a summary by engine", isinstance(self.parity, dict)),
            choice=("how the engine was chosen", isinstance(self.choice, dict)),
        )
        self.served()

    def served(self) -> Artefact:
        """The chosen artefact. Raises SpecError if there is none."""
        for artefact in self.artefacts:
            if artefact.name == self.engine:
                return artefact
        have = ", ".join(a.name for a in self.artefacts) or "none"
        raise SpecError(f"the spec chooses engine {self.engine!r} but has artefacts for: {have}")

    @functools.cached_property
    def palette_rgb(self) -> NDArray[np.uint8]:
        """The palette as an array, uint8 (num_classes, 3)."""
        return np.array(self.palette, np.uint8)

    def in_order(self) -> list[Artefact]:
        """The chosen artefact, then the others as they are to be tried instead of it."""
        served = self.served()
        return [served, *(artefact for artefact in self.artefacts if artefact != served)]

    def save(self, path: Path) -> None:
        """Write as JSON, stable under re-writing (sorted keys), readable by people."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ModelSpec:
        """Read and check. Raises SpecError for whatever is wrong with the file."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError(f"cannot read {path}: {error.strerror}. Export the model again.") from None
        except ValueError as error:
            raise SpecError(f"{path} is not JSON ({error}): export the model again") from None
        if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
            raise SpecError(f"{path} is not a model spec of schema {SCHEMA}: export the model again")
        try:
            inputs = document.pop("input")
            return cls(
                input=InputSpec(**{**inputs, "mean": _tuple(inputs["mean"]), "std": _tuple(inputs["std"])}),
                classes=_tuple(document.pop("classes")),
                palette=tuple(_tuple(colour) for colour in _tuple(document.pop("palette"))),
                artefacts=tuple(Artefact(**artefact) for artefact in _tuple(document.pop("artefacts"))),
                golden=tuple(Golden(**golden) for golden in _tuple(document.pop("golden", []))),
                **document,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise SpecError(f"{path} does not have the fields of schema {SCHEMA} ({error})") from None
        except SpecError as error:
            raise SpecError(f"{path}: {error}. Export the model again.") from None


# --- checks -------------------------------------------------------------------------------------------------


def _require(content: object, **checks: tuple[str, bool]) -> None:
    """Raises SpecError with the fields of `content` that do not hold, and what was expected of them."""
    wrong = [
        f"{field} is {getattr(content, field)!r}, expected {expected}"
        for field, (expected, holds) in checks.items()
        if not holds
    ]
    if wrong:
        raise SpecError("; ".join(wrong))


def _tuple(value: object) -> tuple[Any, ...]:
    """A JSON list; text is no list of letters."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and Path(value).name == value and value not in ("", ".", "..")


def _is_int(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _are_numbers(values: tuple[object, ...]) -> bool:
    return len(values) == 3 and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in values
    )


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
