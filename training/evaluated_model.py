"""What `training.evaluate` is given -> the served path of it: a checkpoint, an exported folder, or a package.

with unpacked(Path("model_store/rooms.mar")) as folder:
    labels = load_segmenter(folder, "openvino-int8").segment(photo)
"""

from __future__ import annotations

import dataclasses
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segserve.engines import load_engine
from segserve.errors import DatasetError, SpecError, UsageError
from segserve.segmenter import Segmenter
from segserve.spec import SPEC_FILE, ModelSpec
from training.data import Dataset
from training.torch_engine import checkpoint_segmenter


@contextmanager
def unpacked(what: Path) -> Iterator[Path]:
    """The folder of a .mar, with its spec and every artefact that it packs, as long as the block lasts; else `what`.

    Raises UsageError for a file that is no package of export.build, SpecError for a spec that is damaged.
    """
    if what.suffix != ".mar":
        yield what
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(what) as archive:
                archive.extract(SPEC_FILE, folder)
                spec = ModelSpec.load(Path(folder) / SPEC_FILE)
                for name in {artefact.file for artefact in spec.artefacts}:
                    archive.extract(name, folder)
        except SpecError as error:
            raise SpecError(f"{what}: {error}") from error
        # RuntimeError: encrypted, or packed in a way that is not known here
        except (
            OSError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            KeyError,
            ValueError,
            RuntimeError,
        ) as error:
            raise UsageError(f"{what}: expected a .mar that export.build made ({error})") from error
        yield Path(folder)


def load_segmenter(what: Path, engine: str | None = None) -> Segmenter:
    """The served path for a folder or a checkpoint; `engine`: which of the folder's, if not the chosen one.

    Raises UsageError; SpecError, EngineError or CheckpointError for files that are damaged or don't run here.
    """
    if what.is_dir():
        spec = ModelSpec.load(what / SPEC_FILE)
        names = [artefact.name for artefact in spec.artefacts]
        if engine is not None and (wanted := engine.removesuffix("-fp32")) not in names:
            raise UsageError(f"--engine {engine}: there are {', '.join(names)}")
        spec = spec if engine is None else dataclasses.replace(spec, engine=wanted)
        return Segmenter(spec, load_engine(spec, what))
    if what.suffix == ".safetensors":
        if engine is not None:
            raise UsageError(f"--engine {engine}: {what} is a checkpoint, which PyTorch runs; leave it out")
        return checkpoint_segmenter(what)
    raise UsageError(
        f"{what}: expected a checkpoint (.safetensors), a folder made by export.build, or its .mar"
    )


def require_same_classes(segmenter: Segmenter, dataset: Dataset) -> None:
    """Raises DatasetError: labels of the one would be taken for others of the other."""
    if segmenter.spec.classes != dataset.classes:
        raise DatasetError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}; the model has "
            f"{', '.join(segmenter.spec.classes)}: they must be the same, in the same order"
        )
