"""model_spec.json: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segserve.engines import load_engine
from segserve.errors import EngineError, SpecError
from segserve.spec import Artefact, ModelSpec, sha256_file
from tests.specs import make_spec


def test_round_trip(tmp_path: Path) -> None:
    make_spec().save(tmp_path / "model_spec.json")
    assert ModelSpec.load(tmp_path / "model_spec.json") == make_spec()


def test_document_names_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "model_spec.json"
    make_spec().save(path)
    document = json.loads(path.read_text())
    assert document["schema"] == 1
    path.write_text(json.dumps({**document, "schema": 2}))
    with pytest.raises(SpecError, match="schema 1"):
        ModelSpec.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 1, "input": 3}'])
def test_torn_and_foreign_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model_spec.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"model_spec\.json"):
        ModelSpec.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"model_spec\.json.*No such file"):
        ModelSpec.load(tmp_path / "model_spec.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("wall", "wall", "floor")}, "different names"),
        ({"palette": ((1, 2, 3),)}, "expected 3 colours"),
        ({"engine": "tensorrt"}, "'tensorrt'.*onnx"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_spec(**changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("align_corners", "false"), ("align_corners", 1), ("name", None), ("name", ""), ("version", 1.0),
        ("preset", None), ("classes", "floor"), ("classes", [1, 2]), ("classes", []), ("classes", None),
        ("palette", [[1, 2, 300], [4, 5, 6]]), ("palette", [[1, 2], [4, 5, 6]]), ("palette", ["red", "blu"]),
        ("palette", [[1, 2, 3.5], [4, 5, 6]]), ("ignore_label", 256), ("ignore_label", None), ("stride", 0),
        ("stride", 8.0), ("engine", None), ("checkpoint_sha256", "abc"), ("versions", {"torch": 2}),
        ("versions", []), ("parity", None), ("artefacts", {}), ("artefacts", [3]), ("input", []),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_named(tmp_path: Path, field: str, value: object) -> None:
    refused(tmp_path, field, lambda document: document.update({field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 240.5), ("height", "240"), ("height", True), ("width", 0), ("width", 9000),
        ("mean", [math.nan, 1, 1]), ("mean", [1, 2]), ("mean", "abc"), ("std", [1, 1, 0]), ("std", [1, 1, math.inf]),
        ("std", None),
    ],
)  # fmt: skip
def test_nonsense_about_the_input_is_refused(tmp_path: Path, field: str, value: object) -> None:
    refused(tmp_path, field, lambda document: document["input"].update({field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("file", None), ("file", "a/b"), ("precision", 32), ("sha256", "x" * 64), ("num_bytes", -1), ("num_bytes", 1.5),
     ("floats", "fp16"), ("floats", 16)],
)  # fmt: skip
def test_nonsense_about_an_artefact_is_refused(tmp_path: Path, field: str, value: object) -> None:
    refused(tmp_path, field, lambda document: document["artefacts"][0].update({field: value}))


def refused(tmp_path: Path, field: str, spoil: Callable[[dict[str, Any]], None]) -> None:
    """A good spec, spoilt, is a SpecError that names the file, and the field or its value."""
    path = tmp_path / "model_spec.json"
    make_spec().save(path)
    document = json.loads(path.read_text())
    before = json.dumps(document)
    spoil(document)
    assert json.dumps(document) != before
    path.write_text(json.dumps(document))
    with pytest.raises(SpecError, match=rf"model_spec\.json.*({field}|list|object|mapping)"):
        ModelSpec.load(path)


def test_a_package_from_before_does_not_say_its_floats(tmp_path: Path) -> None:
    path = tmp_path / "model_spec.json"
    make_spec().save(path)
    document = json.loads(path.read_text())
    del document["artefacts"][0]["floats"]
    path.write_text(json.dumps(document))
    assert ModelSpec.load(path) == make_spec()


def test_artefact_cannot_point_elsewhere() -> None:
    with pytest.raises(SpecError, match="plain file name"):
        Artefact("../other.onnx", "onnx", "fp32", "0" * 64, 1)


def test_changed_artefact_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc")
    spec = make_spec(artefacts=(Artefact("model.onnx", "onnx", "fp32", sha256_file(path), 3),))
    with pytest.raises(EngineError, match=r"onnxruntime .* cannot load"):
        load_engine(spec, tmp_path)
    path.write_bytes(b"abd")
    with pytest.raises(EngineError, match="not the file that passed parity"):
        load_engine(spec, tmp_path)
