"""constraints.txt pins what runs here, and everything that it needs."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name


def test_every_package_is_pinned_at_the_version_that_runs(repo_root: Path) -> None:
    lines = (repo_root / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins}
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert pinned == _versions(direct)


def _versions(direct: list[str]) -> dict[NormalizedName, str]:
    """What is installed here of these requirements and of all that they require in turn."""
    wanted = [(Requirement(text), "") for text in direct]  # with the extra that asks for it
    done = set()
    while wanted:
        requirement, extra = wanted.pop()
        name = canonicalize_name(requirement.name)
        if (requirement.marker and not requirement.marker.evaluate({"extra": extra})) or _comes_with_cuda(
            name
        ):
            continue
        for own_extra in requirement.extras | {""}:
            if (name, own_extra) not in done:
                done.add((name, own_extra))
                wanted += [(Requirement(text), own_extra) for text in metadata.requires(name) or []]
    return {name: metadata.version(name).split("+")[0] for name, _ in done}


def _comes_with_cuda(name: str) -> bool:
    """A CUDA build of torch pins these itself."""
    ours = (
        "cuda-bindings",
        "cuda-pathfinder",
        "nvidia-ml-py",
    )  # the TensorRT engine's way to the GPU; its power
    return name not in ours and (name.startswith(("nvidia-", "cuda-")) or name == "triton")
