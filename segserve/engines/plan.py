"""A TensorRT engine as one file: what it was built with and for, in front of the plan itself.

TensorRT takes a plan only in the version and on the kind of GPU that built it, and says little when they differ. So
the file starts with a line that people can read (`head -1 model-fp16.plan`), which the runner checks first.

    write_plan(Path("model-fp16.plan"), header, plan)
    header, plan = read_plan(Path("model-fp16.plan"))
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from segserve.errors import EngineError

MAGIC = b"segserve-plan-1 "
MAX_HEADER_BYTES = 4096
REBUILD = "Build it again on this host: python -m export.build CHECKPOINT --out FOLDER --engine auto"


@dataclass(frozen=True)
class PlanHeader:
    """What built the plan, and the inputs that it takes: uint8 NHWC of 1 ... max_batch images."""

    tensorrt: str
    gpu: str
    compute_capability: str
    precision: str
    height: int
    width: int
    max_batch: int


def write_plan(path: Path, header: PlanHeader, plan: bytes | memoryview) -> None:
    """Write the file; an earlier one is replaced only by a whole one."""
    line = MAGIC + json.dumps(dataclasses.asdict(header), sort_keys=True).encode() + b"\n"
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(line)
        file.write(plan)
    partial.replace(path)


def read_plan(path: Path) -> tuple[PlanHeader, bytes]:
    """The header and the plan. Raises EngineError if the file cannot be read or is not such a file."""
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_HEADER_BYTES)
            plan = file.read()
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}. {REBUILD}") from None
    try:
        if not line.startswith(MAGIC):
            raise ValueError(f"it starts with {line[:16]!r}")
        header = PlanHeader(**json.loads(line.removeprefix(MAGIC)))
    except (TypeError, ValueError) as error:
        raise EngineError(f"{path} is no TensorRT engine of segserve ({error}). {REBUILD}") from None
    return header, plan
