"""A model archive must not be able to run code through our loading of it: no call in the code that unpickles.

Walks the syntax trees, so a call in a string or comment does not count and an import under another name does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("segserve", "export", "handlers", "deploy", "training")
FORBIDDEN_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
}
FORBIDDEN_CALLS = {
    "eval", "exec", "builtins.eval", "builtins.exec", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "torch.package.PackageImporter",
    "torch.hub.load", "onnx.hub.load", "pandas.read_pickle", "numpy.lib.format.read_array",
}  # fmt: skip
SAFE_ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
}
# Opens programs of TorchScript, which cannot reach Python: its unpickler knows tensors and its own types only.
TORCHSCRIPT = ("segserve/engines/torchscript.py", "torch.jit.load")


def imported(tree: ast.Module) -> dict[str, str]:
    """Local name → what it stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Full name of what is called; empty where it is not a plain name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (before := dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return ""


def unsafe(source: str) -> Iterator[str]:
    """What in this code could unpickle or run what it reads."""
    tree = ast.parse(source)
    names = imported(tree)
    for module in names.values():
        if module.split(".")[0] in FORBIDDEN_MODULES:
            yield f"import {module}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func, names)
        values = {word.arg: word.value for word in node.keywords}
        if called in FORBIDDEN_CALLS or called == TORCHSCRIPT[1]:
            yield called
        if called in SAFE_ONLY_WITH:
            argument, wanted = SAFE_ONLY_WITH[called]
            value = values.get(argument)
            if not (isinstance(value, ast.Constant) and value.value is wanted):
                yield f"{called} without {argument}={wanted}"
        pickles = values.get("allow_pickle")
        if isinstance(pickles, ast.Constant) and pickles.value is True:
            yield f"{called} with allow_pickle=True"


def test_nothing_of_ours_unpickles(repo_root: Path) -> None:
    files = [path for folder in FOLDERS for path in sorted((repo_root / folder).rglob("*.py"))]
    assert len(files) > 50
    found = [
        (str(path.relative_to(repo_root)), what)
        for path in files
        for what in unsafe(path.read_text(encoding="utf-8"))
    ]
    assert found == [TORCHSCRIPT]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "import pickle"),
        ("from cloudpickle import load", "import cloudpickle.load"),
        ("import torch as t\nt.load(p)", "torch.load without weights_only=True"),
        ("from torch import load\nload(p, weights_only=False)", "torch.load without weights_only=True"),
        ("import numpy as np\nnp.load(p)", "numpy.load without allow_pickle=False"),
        ("import yaml\nyaml.load(f, Loader=yaml.Loader)", "yaml.load"),
        ("import torch\ntorch.jit.load(p)", "torch.jit.load"),
        ("eval(text)", "eval"),
        ("import numpy\nnumpy.savez(p, allow_pickle=True)", "numpy.savez with allow_pickle=True"),
    ],
)
def test_what_would_is_seen(source: str, found: str) -> None:
    assert found in list(unsafe(source))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(p, weights_only=True)\nnet.eval()",
        "import numpy as np\nnp.load(p, allow_pickle=False)",
        "import yaml\nyaml.safe_load(f)",
        "import re\nre.compile('pickle.load')",
    ],
)
def test_what_would_not_is_left_alone(source: str) -> None:
    assert list(unsafe(source)) == []
