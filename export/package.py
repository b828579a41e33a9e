"""Build folder -> NAME.mar, for what passed parity and nothing else; segserve.package checks the .mar afterwards.

A .mar holds the handler with its stand-in for torch, the segserve core, the chosen artefact and
what can stand in for it, model_spec.json and parity.json.

    package(Path("build/rooms")) -> Path("build/rooms/rooms.mar")
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from export import choose
from segserve import parity_report
from segserve.errors import CheckFailed
from segserve.package import (
    HANDLER_FILE,
    MODEL_CONFIG_FILE,
    TORCH_STAND_IN_PLACE,
    check_package,
    golden_files,
)
from segserve.spec import PARITY_FILE, SPEC_FILE, Artefact, ModelSpec, sha256_file

REPOSITORY = Path(__file__).resolve().parents[1]
CORE = REPOSITORY / "segserve"
HANDLER = REPOSITORY / "handlers" / HANDLER_FILE
MODEL_CONFIG = REPOSITORY / "handlers" / MODEL_CONFIG_FILE
TORCH_STAND_IN = REPOSITORY / "handlers" / "torch_stand_in.py"
ANYWHERE = "model.onnx"
WORK_PREFIX, STAGED, SCRATCH, MADE = "package-", "files", "tmp", "out"
WORK_FILES = {STAGED, SCRATCH, MADE, MODEL_CONFIG_FILE}


def package(folder: Path) -> Path:
    """Pack a folder that export.build wrote: the spec's chosen artefact, and what can be served instead of it.

    Raises CheckFailed unless parity.json proves that these very files, under this very spec, are the checkpoint.
    """
    spec = ModelSpec.load(folder / SPEC_FILE)
    packed = to_pack(spec)
    report = parity_report.load(folder / PARITY_FILE)
    for artefact in packed:
        if sha256_file(folder / artefact.file) != artefact.sha256:
            raise CheckFailed(
                f"{folder / artefact.file} is not the file of the spec: its sha256 differs. Run export.build again."
            )
        parity_report.require_passed(report, spec, artefact)
    spec = dataclasses.replace(spec, artefacts=packed)

    # absolute, because the archiver runs in it
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=folder.absolute()) as work:
        staged = Path(work) / STAGED
        shutil.copytree(CORE, staged / "segserve", ignore=_all_but_sources)
        (staged / TORCH_STAND_IN_PLACE).parent.mkdir()
        shutil.copyfile(TORCH_STAND_IN, staged / TORCH_STAND_IN_PLACE)
        spec.save(staged / SPEC_FILE)
        beside = {artefact.file for artefact in packed[1:]} - {packed[0].file}
        for file in {PARITY_FILE, *beside, *golden_files(spec)}:
            shutil.copyfile(folder / file, staged / file)
        (Path(work) / MODEL_CONFIG.name).write_text(model_config(spec), encoding="utf-8")
        made = _archive(spec, folder.absolute() / packed[0].file, Path(work))
        check_package(made)
        return Path(shutil.move(made, folder / made.name))


def remove_unfinished(folder: Path) -> None:
    """Take away what a packaging left that was ended from outside (SIGTERM, no power): copies of all that it packs.

    Another folder, whatever its name, stays. Raises OSError.
    """
    for path in folder.glob(f"{WORK_PREFIX}*"):
        is_ours = re.fullmatch(rf"{WORK_PREFIX}[a-z0-9_]{{8}}", path.name)  # as tempfile names its folders
        if not is_ours or path.is_symlink() or not path.is_dir():
            continue
        if {entry.name for entry in path.iterdir()} <= WORK_FILES:
            shutil.rmtree(path)


def to_pack(spec: ModelSpec) -> tuple[Artefact, ...]:
    """The chosen artefact; with it what runs the same file, and model.onnx for hosts that cannot run the chosen one."""
    files = {spec.served().file, ANYWHERE}
    return tuple(artefact for artefact in spec.in_order() if artefact.file in files)


def model_config(spec: ModelSpec) -> str:
    """The template, with a larger batchSize where the chosen engine was measured to be faster with one."""
    text = MODEL_CONFIG.read_text(encoding="utf-8")
    measured = choose.batch_size(spec.choice, spec.engine)
    return re.sub(
        r"(?m)^batchSize: (\d+)$", lambda line: f"batchSize: {max(int(line[1]), measured or 0)}", text
    )


def _all_but_sources(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names
        if name == "__pycache__" or not (name.endswith(".py") or os.path.isdir(os.path.join(folder, name)))
    }  # fmt: skip


def _archive(spec: ModelSpec, artefact: Path, work: Path) -> Path:
    """Run torch-model-archiver. It stages in TMPDIR/NAME and clears that first, so it gets a TMPDIR of its own.

    It takes --extra-files for a list with commas and wildcards, so it runs where that folder has a plain name.
    """
    scratch, out = work / SCRATCH, work / MADE
    scratch.mkdir()
    out.mkdir()
    command = [
        sys.executable, "-m", "model_archiver.model_packaging",
        "--model-name", spec.name,
        "--version", spec.version,
        "--serialized-file", str(artefact),
        "--handler", str(HANDLER),
        "--extra-files", STAGED,
        "--config-file", str(work / MODEL_CONFIG.name),
        "--export-path", str(out),
        "--archive-format", "zip-store",
    ]  # fmt: skip
    environment = os.environ | {"TMPDIR": str(scratch)}
    result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CheckFailed(f"torch-model-archiver failed: {reason[0]}")
    return out / f"{spec.name}.mar"
