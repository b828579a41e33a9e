"""Threads are counted by what a container may use, not by what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from handlers import segmentation_handler
from segserve import cgroup, cpu, engines
from segserve.engines import load_engine
from segserve.spec import Artefact, sha256_file
from tests.specs import make_spec

Files = dict[str, str]
V2, V1 = "0::/a/b\n", "7:memory:/a\n3:cpu,cpuacct:/docker/0123\n1:name=systemd:/\n0::/\n"


@pytest.fixture(autouse=True)
def _64_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(cgroup, "_MOUNT", tmp_path / "fs")
    monkeypatch.setattr(cgroup, "_OWN", tmp_path / "own")


def written(folder: Path, own: str, files: Files) -> None:
    (folder / "own").write_text(own)
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        (V2, {}, 64),
        (V2, {"a/b/cpu.max": "200000 100000"}, 2),
        (V2, {"a/b/cpu.max": "max 100000"}, 64),
        (V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        (V2, {"a/b/cpu.max": "800000 100000", "a/cpu.max": "300000 100000", "cpu.max": "900000 100000"}, 3),
        (V2, {"a/b/cpu.max": "150000 100000"}, 2),
        (V2, {"a/b/cpu.max": "20000 100000"}, 1),
        (V2, {"a/b/cpu.max": "9900000 100000"}, 64),
        (V2, {"other/cpu.max": "100000 100000", "a/b/cpu.max": "unheard of"}, 64),
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),  # a container of version 2 sees its own group as the root
        (V1, {"cpu/docker/0123/cpu.cfs_quota_us": "50000", "cpu/docker/0123/cpu.cfs_period_us": "10000"}, 5),
        (V1, {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),  # its group is not visible
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        (V1, {"memory/a/cpu.cfs_quota_us": "100000", "memory/a/cpu.cfs_period_us": "100000"}, 64),
    ],
)  # fmt: skip
def test_the_smallest_quota_counts(tmp_path: Path, own: str, files: Files, cores: int) -> None:
    written(tmp_path, own, files)
    assert cpu.cores() == cores


def test_without_control_groups_all_cores_count() -> None:
    assert cpu.cores() == 64


def test_a_worker_and_an_engine_take_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, V2, {"cpu.max": "600000 100000"})
    assert [segmentation_handler._threads_per_worker(workers) for workers in (1, 2, 4, 30)] == [6, 3, 1, 1]
    file = tmp_path / "model.onnx"
    file.write_bytes(np.zeros(8).tobytes())
    spec = make_spec(artefacts=(Artefact(file.name, "onnx", "fp32", sha256_file(file), 64),), engine="onnx")
    given: list[int] = []
    monkeypatch.setattr(engines, "_load", lambda *arguments: given.append(arguments[3]))
    for threads in (0, 40):
        load_engine(spec, tmp_path, threads)
    assert given == [6, 40]
