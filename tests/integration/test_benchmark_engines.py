"""benchmarks.engines: a line for each artefact of a build, beside eager PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import engines
from benchmarks.engines import EnginesConfig
from export import choose
from segserve.errors import UsageError


def test_each_artefact_is_timed_weighed_and_beside_eager(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose, "MEASURE_S", 0.5)
    rows: dict[str, dict[str, Any]] = {}
    for folder in exported.values():
        engines.main(EnginesConfig(folder, folder / "model.safetensors", batch_sizes=(1, 2), as_json=True))
        document = json.loads(capsys.readouterr().out)
        assert document["not_here"] == {}
        rows |= {row["engine"]: row for row in document["rows"]}
    assert set(rows) == {"eager fp32", "onnx", "torchscript"}
    assert rows["eager fp32"]["against eager"] == 1
    assert rows["eager fp32"]["parity"] == "is the reference"
    for name in ("onnx", "torchscript"):
        assert rows[name]["parity"].startswith("holds, ")
        assert min(rows[name][key] for key in ("batch 1, ms", "batch 2, ms", "images/s", "against eager")) > 0
    # torch itself is a part of what TorchScript costs
    assert rows["torchscript"]["memory, MB"] > rows["onnx"]["memory, MB"] + 50


def test_another_checkpoint_is_refused(good_build: Path) -> None:
    """Beside another network "against eager" would say nothing."""
    spec_file = good_build / "model_spec.json"
    spec = json.loads(spec_file.read_text())
    spec_file.write_text(json.dumps({**spec, "checkpoint_sha256": "0" * 64}))
    with pytest.raises(
        UsageError,
        match=rf"tiny\.safetensors is not what .* its sha256 is {spec['checkpoint_sha256']}, expected 000",
    ):
        engines.main(EnginesConfig(good_build, good_build / "tiny.safetensors"))


def test_batch_sizes_that_make_no_sense_are_told() -> None:
    with pytest.raises(UsageError, match="--batch-sizes"):
        EnginesConfig(Path(), Path(), batch_sizes=(0,))
