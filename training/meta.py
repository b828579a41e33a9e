"""What a checkpoint says of itself: the JSON in its header, and in the copy beside it for people.

meta = CheckpointMeta.from_json(Path("runs/rooms/best.json").read_text())
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from segserve.errors import CheckpointError
from training.layout import Layout

SCHEMA = 1
_OPTIONAL = {"layout", "bn_eps", "majority"}  # fields that are left out where they are None


@dataclass(frozen=True)
class CheckpointMeta:
    """What must be known to use the weights. `mean` and `std` are RGB on the 0..255 scale."""

    preset: str
    classes: tuple[str, ...]
    ignore_label: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    align_corners: bool
    input_height: int
    input_width: int
    epoch: int  # epochs completed
    metrics: dict[str, float]
    provenance: dict[str, str]
    layout: Layout | None = None  # of a network of other origin; None: the preset's own
    bn_eps: float | None = None  # of every batch norm; None: the preset's own
    majority: tuple[str, ...] | None = None  # classes that win only against all others together; None: none

    def __post_init__(self) -> None:
        wrong = [name for name, holds in self._checks().items() if not holds]
        if wrong:
            got = ", ".join(f"{name}={getattr(self, name)!r}" for name in wrong)
            raise CheckpointError(f"checkpoint description does not make sense: {got}")

    def _checks(self) -> dict[str, bool]:
        return {
            "preset": isinstance(self.preset, str) and bool(self.preset),
            "classes": (len(self.classes) > 0 or self.layout is not None)
            and len(self.classes) <= 255
            and all(isinstance(c, str) for c in self.classes),
            "ignore_label": _is_int(self.ignore_label) and len(self.classes) <= self.ignore_label <= 255,
            "mean": len(self.mean) == 3 and all(map(_is_number, self.mean)),
            "std": len(self.std) == 3 and all(_is_number(x) and x > 0 for x in self.std),
            "align_corners": isinstance(self.align_corners, bool),
            "input_height": _is_int(self.input_height) and self.input_height > 0,
            "input_width": _is_int(self.input_width) and self.input_width > 0,
            "epoch": _is_int(self.epoch) and self.epoch >= 0,
            "metrics": all(isinstance(v, int | float) for v in self.metrics.values()),
            "provenance": all(isinstance(v, str) for v in self.provenance.values()),
            "bn_eps": self.bn_eps is None or (_is_number(self.bn_eps) and self.bn_eps > 0),
            "majority": self.majority is None
            or (
                len(set(self.majority)) == len(self.majority) > 0 and set(self.majority) <= set(self.classes)
            ),
        }

    def to_json(self, indent: int | None = None) -> str:
        """JSON with `schema` first; a metric that is nan (class not seen) becomes null."""
        content: dict[str, Any] = {"schema": SCHEMA} | asdict(self)
        content["metrics"] = {k: None if math.isnan(v) else v for k, v in self.metrics.items()}
        for name in _OPTIONAL:
            if content[name] is None:
                del content[name]
        return json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> CheckpointMeta:
        """The inverse of `to_json`. Raises CheckpointError for anything else."""
        try:
            content = json.loads(text)
            if content.pop("schema") != SCHEMA:
                raise CheckpointError(f"checkpoint schema is not {SCHEMA}: use the version that wrote it")
            if wrong := (set(content) | _OPTIONAL) ^ {field.name for field in fields(cls)}:
                raise CheckpointError(f"checkpoint description: fields missing or unknown: {sorted(wrong)}")
            for name in ("classes", "mean", "std"):
                content[name] = tuple(content[name])
            content["metrics"] = {k: math.nan if v is None else v for k, v in content["metrics"].items()}
            if "majority" in content:
                content["majority"] = tuple(content["majority"])
            if "layout" in content:
                content["layout"] = Layout.from_json(content["layout"])
            return cls(**content)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise CheckpointError(f"checkpoint description cannot be read: {error!r}") from error


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
