"""Build folder -> NAME.mar, for what passed parity and nothing else; and the same check on a .mar afterwards.

A .mar holds the handler with its stand-in for torch, the segserve core, one artefact, model_spec.json and parity.json.

    package(Path("build/rooms")) -> Path("build/rooms/rooms.mar")
    check_package(Path("model_store/rooms.mar")) -> ModelSpec, or CheckFailed
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from export import report as reports
from segserve.errors import CheckFailed, SpecError
from segserve.spec import PARITY_FILE, SPEC_FILE, ModelSpec, sha256_file

REPOSITORY = Path(__file__).resolve().parents[1]
CORE = REPOSITORY / "segserve"
HANDLER = REPOSITORY / "handlers" / "segmentation_handler.py"
MODEL_CONFIG = REPOSITORY / "handlers" / "model-config.yaml"
TORCH_STAND_IN = REPOSITORY / "handlers" / "torch_stand_in.py"
TORCH_STAND_IN_PLACE = "torch/__init__.py"
MANIFEST = "MAR-INF/MANIFEST.json"


def package(folder: Path) -> Path:
    """Pack the spec's chosen artefact of a folder that export.build wrote.

    Raises CheckFailed unless parity.json proves that this very file, under this very spec, is the checkpoint.
    """
    spec = ModelSpec.load(folder / SPEC_FILE)
    artefact = spec.served()
    path = folder / artefact.file
    if sha256_file(path) != artefact.sha256:
        raise CheckFailed(f"{path} is not the file of the spec: its sha256 differs. Run export.build again.")
    reports.require_passed(reports.load(folder / PARITY_FILE), spec, artefact)

    with tempfile.TemporaryDirectory(prefix="package-", dir=folder) as work:
        staged = Path(work) / "files"
        shutil.copytree(CORE, staged / "segserve", ignore=_all_but_sources)
        (staged / TORCH_STAND_IN_PLACE).parent.mkdir()
        shutil.copyfile(TORCH_STAND_IN, staged / TORCH_STAND_IN_PLACE)
        # the .mar holds one artefact, so its spec names one
        dataclasses.replace(spec, artefacts=(artefact,)).save(staged / SPEC_FILE)
        shutil.copyfile(folder / PARITY_FILE, staged / PARITY_FILE)
        made = _archive(spec, path, staged, Path(work))
        check_package(made)
        return Path(shutil.move(made, folder / made.name))


def check_package(mar: Path) -> ModelSpec:
    """What a .mar holds, after checking that it is whole and that its artefact passed parity.

    Raises: CheckFailed with the reason.
    """
    try:
        with zipfile.ZipFile(mar) as archive, tempfile.TemporaryDirectory() as work:
            for name in (SPEC_FILE, PARITY_FILE):
                archive.extract(name, work)
            spec = ModelSpec.load(Path(work) / SPEC_FILE)
            artefact = spec.served()
            reports.require_passed(reports.load(Path(work) / PARITY_FILE), spec, artefact)
            _check_files(archive, artefact.file)
            archive.extract(artefact.file, work)
            if sha256_file(Path(work) / artefact.file) != artefact.sha256:
                raise CheckFailed(f"its {artefact.file} is not the file that passed parity")
            manifest = json.loads(archive.read(MANIFEST))["model"]
            named = (manifest["modelName"], manifest["modelVersion"], manifest["handler"])
            if named != (spec.name, spec.version, HANDLER.name):
                raise CheckFailed(f"its manifest says {named}, its spec {spec.name} {spec.version}")
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, SpecError, CheckFailed) as error:
        raise CheckFailed(f"{mar} cannot be served: {error}. Build it again with export.build.") from error
    return spec


def _check_files(archive: zipfile.ZipFile, artefact: str) -> None:
    """Exactly what belongs in a package, so that no second artefact or stale module rides along."""
    expected = {SPEC_FILE, PARITY_FILE, artefact, HANDLER.name, MODEL_CONFIG.name, MANIFEST, TORCH_STAND_IN_PLACE}
    found = {name for name in archive.namelist() if not name.endswith("/")}
    if missing := expected - found:
        raise CheckFailed(f"it lacks {', '.join(sorted(missing))}")
    others = {
        name for name in found - expected if not (name.startswith("segserve/") and name.endswith(".py"))
    }
    if others:
        raise CheckFailed(f"it holds files that do not belong there: {', '.join(sorted(others))}")


def _all_but_sources(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names
        if name == "__pycache__" or not (name.endswith(".py") or os.path.isdir(os.path.join(folder, name)))
    }  # fmt: skip


def _archive(spec: ModelSpec, artefact: Path, staged: Path, work: Path) -> Path:
    """Run torch-model-archiver. It stages in TMPDIR/NAME and clears that first, so it gets a TMPDIR of its own."""
    scratch, out = work / "tmp", work / "out"
    scratch.mkdir()
    out.mkdir()
    command = [
        sys.executable, "-m", "model_archiver.model_packaging",
        "--model-name", spec.name,
        "--version", spec.version,
        "--serialized-file", str(artefact),
        "--handler", str(HANDLER),
        "--extra-files", str(staged),
        "--config-file", str(MODEL_CONFIG),
        "--export-path", str(out),
        "--archive-format", "zip-store",
    ]  # fmt: skip
    environment = os.environ | {"TMPDIR": str(scratch)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CheckFailed(f"torch-model-archiver failed: {reason[0]}")
    return out / f"{spec.name}.mar"
