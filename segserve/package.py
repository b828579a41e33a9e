"""What a .mar holds, and whether it is whole and proven: asked by whoever packs it and by whoever deploys it.

    check_package(Path("model_store/rooms.mar")) -> ModelSpec, or CheckFailed

It is in the core, as the report and its limits are, because a server rolls packages out where no export is installed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from pathlib import Path

from segserve import parity_report
from segserve.errors import CheckFailed, SpecError
from segserve.spec import PARITY_FILE, SPEC_FILE, ModelSpec

HANDLER_FILE = "segmentation_handler.py"
MODEL_CONFIG_FILE = "model-config.yaml"
TORCH_STAND_IN_PLACE = "torch/__init__.py"
MANIFEST = "MAR-INF/MANIFEST.json"


def golden_files(spec: ModelSpec) -> dict[str, str]:
    """The golden photos and their masks, file name → sha256."""
    return {file: sha256 for golden in spec.golden for file, sha256 in golden.files().items()}


def check_package(mar: Path) -> ModelSpec:
    """What a .mar holds, after checking that it is whole and that its artefact passed parity.

    Raises: CheckFailed with the reason.
    """
    try:
        with zipfile.ZipFile(mar) as archive, tempfile.TemporaryDirectory() as work:
            for name in (SPEC_FILE, PARITY_FILE):
                archive.extract(name, work)
            spec = ModelSpec.load(Path(work) / SPEC_FILE)
            report = parity_report.load(Path(work) / PARITY_FILE)
            _check_files(archive, {artefact.file for artefact in spec.artefacts} | golden_files(spec).keys())
            for artefact in spec.artefacts:
                parity_report.require_passed(report, spec, artefact)
                if _sha256(archive, artefact.file) != artefact.sha256:
                    raise CheckFailed(f"its {artefact.file} is not the file that passed parity")
            for file, sha256 in golden_files(spec).items():
                if _sha256(archive, file) != sha256:
                    raise CheckFailed(f"its {file} is not the golden photo or mask of the spec")
            manifest = json.loads(archive.read(MANIFEST))["model"]
            named = (manifest["modelName"], manifest["modelVersion"], manifest["handler"])
            if named != (spec.name, spec.version, HANDLER_FILE):
                raise CheckFailed(f"its manifest says {named}, its spec {spec.name} {spec.version}")
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, SpecError, CheckFailed) as error:
        raise CheckFailed(f"{mar} cannot be served: {error}. Build it again with export.build.") from error
    return spec


def _sha256(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # reads in pieces all the same


def _check_files(archive: zipfile.ZipFile, content: set[str]) -> None:
    """Exactly what belongs in a package, so that no unproven artefact or stale module rides along."""
    expected = content | {
        SPEC_FILE,
        PARITY_FILE,
        HANDLER_FILE,
        MODEL_CONFIG_FILE,
        MANIFEST,
        TORCH_STAND_IN_PLACE,
    }
    found = {name for name in archive.namelist() if not name.endswith("/")}
    if missing := expected - found:
        raise CheckFailed(f"it lacks {', '.join(sorted(missing))}")
    others = {
        name
        for name in found - expected
        if not (name.startswith("segserve/") and name.endswith(".py") and ".." not in name.split("/"))
    }
    if others:
        raise CheckFailed(f"it holds files that do not belong there: {', '.join(sorted(others))}")
