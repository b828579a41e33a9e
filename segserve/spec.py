"""model_spec.json: everything a server must know of a model, written by export and packed into the .mar.

The spec ties together the weights (sha256 of every artefact), the pixels they expect (size, mean, std), the meaning
of their outputs (classes, stride, align_corners) and the proof that they segment like the checkpoint (parity).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class InputSpec:
    """What the network is fed: uint8 RGB of height x width; (x - mean) / std happens inside the artefact."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not (1 <= self.height <= 8192 and 1 <= self.width <= 8192):
            raise SpecError(f"input size is {self.height}x{self.width}: expected 1 to 8192 on each side")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise SpecError(f"mean {self.mean} and std {self.std}: expected three numbers each, std above 0")


@dataclass(frozen=True)
class Artefact:
    """One exported file, by content."""

    file: str
    engine: str
    precision: str
    sha256: str
    num_bytes: int

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file or self.file in ("", ".", ".."):
            raise SpecError(f"artefact file {self.file!r}: expected a plain file name beside the spec")


@dataclass(frozen=True)
class ModelSpec:
    """The served model. Colours are RGB 0..255, one per class; `engine` names the artefact that is served."""

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

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= 255 or len(set(self.classes)) != len(self.classes):
            raise SpecError(f"{len(self.classes)} classes: expected 1 to 255 different names")
        if len(self.palette) != len(self.classes):
            raise SpecError(f"{len(self.palette)} colours for {len(self.classes)} classes: expected one each")
        self.served()

    def served(self) -> Artefact:
        """The artefact of the chosen engine. Raises SpecError if there is none."""
        for artefact in self.artefacts:
            if artefact.engine == self.engine:
                return artefact
        have = ", ".join(a.engine for a in self.artefacts) or "none"
        raise SpecError(f"the spec chooses engine {self.engine!r} but has artefacts for: {have}")

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
                input=InputSpec(**{**inputs, "mean": tuple(inputs["mean"]), "std": tuple(inputs["std"])}),
                classes=tuple(document.pop("classes")),
                palette=tuple(tuple(colour) for colour in document.pop("palette")),
                artefacts=tuple(Artefact(**artefact) for artefact in document.pop("artefacts")),
                **document,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise SpecError(f"{path} does not have the fields of schema {SCHEMA} ({error})") from None
