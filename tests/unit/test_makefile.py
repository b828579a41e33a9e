"""The Makefile's targets: what they call, and when they have nothing to do."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.run_folder import write_json
from tests.make_project import Project


@pytest.fixture
def project(tmp_path: Path, repo_root: Path) -> Project:
    """A set-up project whose demo model is not packaged yet."""
    return Project(tmp_path, repo_root)


def test_help_names_every_target(project: Project) -> None:
    phony = re.findall(r"^\.PHONY: (.*)", (project.folder / "Makefile").read_text(), re.MULTILINE)
    shown = re.findall(r"^  ([a-z-]+) +\S", project.make().stdout, re.MULTILINE)
    assert sorted(shown) == sorted(phony[0].split())


def test_help_says_that_serve_needs_the_engine_of_package(project: Project) -> None:
    shown = dict(re.findall(r"^  ([a-z-]+) +(\S.*)", project.make().stdout, re.MULTILINE))
    assert shown["serve"].endswith("; ENGINE=… as given to package, or it is exported anew)")
    assert shown["package"].endswith("(ENGINE=torchscript, to be given to serve too)")


def test_a_set_up_project_is_not_set_up_again(project: Project) -> None:
    assert project.make("-q", "setup").returncode == 0
    project.touch("constraints.txt", 300)
    assert project.make("-q", "setup").returncode == 1


def test_demo_model_is_packaged_again_only_when_something_changed(project: Project) -> None:
    assert project.make("-q", "package").returncode == 1
    project.touch("model_store/rooms.mar", 300)
    assert project.make("-q", "package").returncode == 0
    for source in ("segserve/mask.py", "segserve/engines/onnx.py", "handlers/handler.py", ".venv/.ready",
                   "export/build.py", "training/pspnet.py", "training/rooms_view.py", "build/rooms.engine",
                   "model_store/demo/rooms.safetensors"):  # fmt: skip
        project.touch(source, 400)
        assert project.make("-q", "package").returncode == 1, source
        project.touch(source, 200)


def test_another_engine_is_another_package(project: Project) -> None:
    project.touch("model_store/rooms.mar", 300)
    assert project.make("-q", "package", "ENGINE=onnx").returncode == 0
    for option in ("ENGINE=torchscript", "TARGET=cuda"):
        assert "--engine torchscript" in project.make("-n", "package", option).stdout
        assert "--engine torchscript" in project.make("-n", "serve", option).stdout
    assert project.make("-q", "package").returncode == 0  # nobody built the other one
    project.touch("build/rooms/rooms.mar", 300)
    assert project.make("package", "ENGINE=torchscript").returncode == 0
    assert "--engine torchscript" in project.calls()[-1]
    assert project.make("-q", "package", "ENGINE=torchscript").returncode == 0
    assert "--engine onnx" in project.make("-n", "serve").stdout
    shutil.rmtree(project.folder / "build")
    assert project.make("-q", "package", "ENGINE=torchscript").returncode == 1  # nobody knows what it was


def test_whatever_the_export_imports_makes_a_new_package(repo_root: Path) -> None:
    shown = subprocess.run(
        ["make", "--silent", "--eval", "show: ; @echo $(MAR_SOURCES)", "show"],
        cwd=repo_root, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {str(file.relative_to(repo_root)) for file in _imports(repo_root, "export.build")}
    assert {
        "export/parity.py",
        "segserve/mask.py",
        "training/metrics.py",
        "training/rooms_view.py",
    } <= imported
    assert imported - set(shown.stdout.split()) == set()


def _imports(root: Path, module: str) -> set[Path]:
    """The files of the repository that a module imports, those of functions and of what is imported included."""
    found: set[Path] = set()
    wanted = [module]
    while wanted:
        file = root / f"{wanted.pop().replace('.', '/')}.py"
        if file in found or not file.is_file():
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                wanted += [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                wanted += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return found


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "is not on the PATH"),
        ("exit 1", "is not Python 3.11"),
        ('case "$2" in *venv*) exit 1;; esac', "has no venv module"),
    ],
)
def test_a_missing_python_is_named(project: Project, script: str | None, message: str) -> None:
    project.touch("constraints.txt", 300)
    python = project.folder / "python3.11"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    done = project.make("setup", f"PYTHON={python}")
    assert done.returncode == 2
    assert f"error: {python} {message}. Install it" in done.stderr
    assert project.calls() == []


def test_a_set_up_that_failed_is_taken_up_again(project: Project) -> None:
    project.touch("constraints.txt", 300)
    assert project.make("setup", fail_on="*pip*install*").returncode != 0
    assert project.make("setup").returncode == 0
    assert any("pip install" in call and "-c constraints.txt" in call for call in project.calls())
    assert project.make("-q", "setup").returncode == 0


@pytest.fixture
def packaged(project: Project) -> Project:
    """A project with its demo model packaged and its photo rendered."""
    project.touch("model_store/rooms.mar", 300)
    project.touch("out/room.jpg", 300)
    return project


def test_serve_starts_segments_and_stays(packaged: Project) -> None:
    assert packaged.make("serve").returncode == 0
    assert packaged.calls() == [
        "-m deploy.server start --detach --port 8080 --metrics-port 8082 --auth none",
        "-m deploy.segment out/room.jpg --out out --url http://127.0.0.1:8080",
        "-m deploy.server attach",
    ]


def test_serve_detached_with_tokens(packaged: Project) -> None:
    done = packaged.make("serve", "DETACH=1", "AUTH=token", "PORT=9000", "METRICS_PORT=9002", "PHOTO=x.jpg")
    assert done.returncode == 0
    assert "make stop" in done.stdout
    assert packaged.calls() == [
        "-m deploy.server start --detach --port 9000 --metrics-port 9002 --auth token",
        "-m deploy.segment x.jpg --out out --url http://127.0.0.1:9000 --token-file run/key_file.json",
    ]


@pytest.mark.parametrize("served", [{"rooms": {"default": "2.0"}}, {}])
def test_serve_goes_on_with_what_the_run_folder_served_last(
    packaged: Project, served: dict[str, object]
) -> None:
    """A rollout may have changed it; where nothing is left the demo model is the first again."""
    (packaged.folder / "run").mkdir()
    write_json(packaged.folder / "run" / "models.json", served)
    assert packaged.make("serve", "DETACH=1").returncode == 0
    start = packaged.calls()[0]
    assert start == "-m deploy.server start --detach --port 8080 --metrics-port 8082 --auth none"


def test_serve_does_not_forget_what_others_serve_from_the_run_folder(packaged: Project) -> None:
    (packaged.folder / "run").mkdir()
    write_json(packaged.folder / "run" / "models.json", {"kitchens": {"default": "1.0"}})
    done = packaged.make("serve", "DETACH=1")
    assert done.returncode != 0
    assert "last served other models than the demo: .venv/bin/python -m deploy.server start" in done.stderr
    assert packaged.calls() == []


@pytest.mark.parametrize(
    ("target", "odd", "plain"),
    [
        ("segment", ["PHOTO=my room (1).jpg"], ["PHOTO=room.jpg"]),
        ("export", ["CHECKPOINT=my run/best.safetensors", "OUT=my builds/x"], ["CHECKPOINT=y", "OUT=x"]),
    ],
)
def test_files_may_have_spaces_in_their_names(
    packaged: Project, target: str, odd: list[str], plain: list[str]
) -> None:
    python = packaged.folder / ".venv/bin/python"
    python.write_text(python.read_text().replace('"$*" >> calls', '"$#" >> calls'))
    packaged.make(target, *odd)
    packaged.make(target, *plain)
    first, second = packaged.calls()
    assert first == second  # as many arguments


@pytest.mark.parametrize(
    ("extras", "runtimes"),
    [
        ("dev", ["onnxruntime"]),
        ("gpu", ["onnxruntime-gpu[cuda,cudnn]"]),
        ("dev gpu", ["onnxruntime-gpu[cuda,cudnn]"]),
    ],
)
def test_a_set_up_has_one_onnxruntime(
    project: Project, repo_root: Path, extras: str, runtimes: list[str]
) -> None:
    """Both write the same folder: with both, what is in it is what pip installed last, or half of each."""
    shutil.copy(repo_root / "pyproject.toml", project.folder)
    python = project.folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\ncase "$1" in -c) exec {sys.executable} "$@";; esac\n')
    project.touch("constraints.txt", 300)
    assert project.make("setup", f"EXTRAS={extras}").returncode == 0
    listed = (project.folder / ".venv/requirements.txt").read_text().splitlines()
    assert [line for line in listed if line.startswith("onnxruntime")] == runtimes
    assert "numpy" in listed
    assert ("pytest" in listed) is ("dev" in extras)


def test_serve_leaves_no_server_behind_when_the_photo_cannot_be_segmented(packaged: Project) -> None:
    assert packaged.make("serve", "DETACH=1", fail_on="*deploy.segment*").returncode != 0
    assert packaged.calls()[-1] == "-m deploy.server stop"


def test_train_uses_as_many_processes_as_asked(packaged: Project) -> None:
    packaged.make("train", "ARGS=--epochs 1")
    packaged.make("train", "ARGS=--epochs 1", "NPROC=2")
    assert packaged.calls() == [
        "-m training.train --epochs 1",
        "-m torch.distributed.run --nproc-per-node 2 -m training.train --epochs 1",
    ]


def test_serving_is_held_against_the_kept_ratios(packaged: Project) -> None:
    packaged.make("bench-regress", "ARGS=--update")
    assert packaged.calls() == ["-m benchmarks.regress model_store/rooms.mar --update"]
    assert packaged.make("bench-regress", fail_on="*benchmarks.regress*").returncode != 0
