"""What a comparison means for the build: who may be missing, what is left out with its reason, and what ends it.

The first of NEUTRAL and the engine that was asked for must hold. The rest of NEUTRAL is made unasked, so that an engine
which cannot run here (a GPU that torch sees and cannot use, too little memory) costs that artefact and not the package.
One that runs and answers otherwise than the checkpoint is another matter: the conversion went wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from export.variants import NEUTRAL
from segserve.errors import CheckFailed
from segserve.spec import PARITY_FILE, ModelSpec


def spare(name: str, asked: str, *, raised: bool) -> bool:
    """Whether a build with --engine `asked` goes on without artefact `name`; `raised`: it gave an error, no answer."""
    if name in (NEUTRAL[0], asked.removesuffix("-fp32")):
        return False
    return raised if name in NEUTRAL else asked == "auto"


def leave_out(checked: dict[str, Any], left_out: dict[str, str], asked: str) -> dict[str, str]:
    """Move what fails parity and is spare to "left_out" of the report, and say why; the others fail the build.

    Returns: of those that can be timed all the same. What raised in a comparison goes to `left_out`, as it would again.
    """
    failing = [
        entry
        for entry in checked["artefacts"]
        if not entry["passed"] and spare(entry["name"], asked, raised=bool(entry["problems"]))
    ]
    checked["artefacts"] = [entry for entry in checked["artefacts"] if entry not in failing]
    checked["left_out"] = failing
    checked["passed"] = not checked["spec_failures"] and all(e["passed"] for e in checked["artefacts"])
    left_out |= {entry["name"]: entry["problems"][0] for entry in failing if entry["problems"]}
    return {entry["name"]: entry["failures"][0] for entry in failing if not entry["problems"]}


def without(spec: ModelSpec, left_out: Collection[str]) -> ModelSpec:
    """The spec, of the artefacts that are not left out."""
    kept = tuple(artefact for artefact in spec.artefacts if artefact.name not in left_out)
    return dataclasses.replace(spec, artefacts=kept)


def require_parity(checked: dict[str, Any], folder: Path) -> None:
    """Raises CheckFailed naming the artefact, the picture and the class that went wrong."""
    reasons = list(checked["spec_failures"])
    for entry in checked["artefacts"]:
        reasons += [f"{entry['file']} ({entry['name']}): {failure}" for failure in entry["failures"]]
    if not checked["passed"]:
        shown = "".join(f"\n  {reason}" for reason in reasons[:12])
        more = f"\n  and {len(reasons) - 12} more" if len(reasons) > 12 else ""
        raise CheckFailed(
            f"no package: not what the checkpoint answers{shown}{more}\nSee {folder / PARITY_FILE}"
        )
