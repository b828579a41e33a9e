"""Every name of TensorRT and CUDA that the code uses exists in the real bindings, 10.13 to 11.4.

The libraries themselves are not needed: tests/tensorrt_names.json says what their Python bindings have.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

SOURCES = ("export/to_tensorrt.py", "segserve/engines/tensorrt.py")
CUDA_SOURCES = (*SOURCES, "segserve/engines/cuda.py", "benchmarks/gpu_check.py")

# What these variables and attributes of self are in the sources.
KINDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timings": "ITimingCache",
    "context": "IExecutionContext",
    "_engine": "ICudaEngine",
    "_runtime": "Runtime",
    "mode": "TensorIOMode",
}
MODULE = ("trt", "_trt")
NOT_THE_LIBRARY = {"error.strerror"}  # of OSError

# Without these the walk over the sources would have missed the point.
CERTAIN = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "Builder.build_serialized_network",
    "IBuilderConfig.set_timing_cache",
    "ParserError.desc",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.set_tensor_address",
    "IExecutionContext.set_device_memory",
    "ICudaEngine.device_memory_size_v2",
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "TensorIOMode.OUTPUT",
    "nptype",
}


def test_all_names_are_in_every_version(repo_root: Path) -> None:
    used = names_used(repo_root)
    assert used >= CERTAIN
    versions = json.loads((repo_root / "tests/tensorrt_names.json").read_text())["versions"]
    assert {version.split(".")[0] for version in versions} == {"10", "11"}
    missing = {(version, name) for version, have in versions.items() for name in used if not has(have, name)}
    assert missing == set()


def test_names_of_one_version_only_would_be_found(repo_root: Path) -> None:
    versions = json.loads((repo_root / "tests/tensorrt_names.json").read_text())["versions"]
    assert has(versions["10.13.3.9"], "BuilderFlag.FP16")
    assert not has(versions["11.4.0.106"], "BuilderFlag.FP16")
    assert not has(versions["10.13.3.9"], "IExecutionContext.execute_async_v4")


def test_all_names_are_in_tensorrt_rtx(repo_root: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    for name in names_used(repo_root):
        found: Any = rtx
        for part in name.split("."):
            assert hasattr(found, part), name
            found = getattr(found, part)


def test_cuda_names(repo_root: Path) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    called = {
        node.args[0].value
        for path in CUDA_SOURCES
        for node in ast.walk(ast.parse((repo_root / path).read_text()))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        if isinstance(node.args[0].value, str) and node.args[0].value.startswith("cuda")
    }
    assert {"cudaMemcpyAsync", "cudaStreamSynchronize", "cudaGetDeviceProperties"} <= called
    attributes = {
        node.attr
        for path in CUDA_SOURCES
        for node in ast.walk(ast.parse((repo_root / path).read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("cuda") and node.attr != "cuda"
    }
    everywhere = {*dir(runtime), *dir(runtime.cudaMemcpyKind)}
    everywhere |= set(dir(runtime.cudaError_t))
    assert (called | attributes) - everywhere == set()


def names_used(root: Path) -> set[str]:
    """ "Class.member" or "function", of everything that the sources take from TensorRT."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse((root / path).read_text())):
            if isinstance(node, ast.Attribute):
                parts = _chain(node)
                for part, member, after in zip(parts, parts[1:], [*parts[2:], ""], strict=False):
                    if part in MODULE:
                        found.add(f"{member}.{after}".rstrip("."))
                    elif part in KINDS and f"{part}.{member}" not in NOT_THE_LIBRARY:
                        found.add(f"{KINDS[part]}.{member}")
    return found - {"__version__"}  # dir was asked for public names only


def _chain(node: ast.expr) -> list[str]:
    """["self", "_engine", "num_io_tensors"]; [""] first for what does not start with a name."""
    if isinstance(node, ast.Attribute):
        return [*_chain(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def has(version: dict[str, list[str] | None], name: str) -> bool:
    first, *member = name.split(".")
    if first not in version:
        return False
    members = version[first]
    return not member or (members is not None and (member[0] in members or member[0].startswith("__")))
