"""The Dockerfile is not built here (that takes a Docker engine): its rules and its references are checked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.launch import read_properties


@pytest.fixture(scope="module")
def instructions(repo_root: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments, continuation lines joined."""
    text = (repo_root / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [
        (line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line and not line.startswith("#")
    ]


def test_hadolint_finds_nothing(repo_root: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists() and not shutil.which("hadolint"):
        pytest.skip("hadolint has no package for this platform")
    done = subprocess.run(
        [hadolint if hadolint.exists() else "hadolint", "--no-color", repo_root / "Dockerfile"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_targets_are_those_of_the_makefile(instructions: list[tuple[str, str]]) -> None:
    stages = [args.split(" AS ") for instruction, args in instructions if instruction == "FROM"]
    names = [name for _, name in stages]
    assert {"cpu", "cuda"} <= set(names)
    for number, (source, _) in enumerate(stages):
        assert source in names[:number] or re.fullmatch(r"[a-z/]+:[\w.-]*\d[\w.-]*", source), source


def test_nothing_runs_as_root(instructions: list[tuple[str, str]]) -> None:
    users = [args for instruction, args in instructions if instruction == "USER"]
    assert users
    assert all(user not in ("root", "0") for user in users)
    copies = [args for instruction, args in instructions if instruction == "COPY"]
    assert all("--chown=segserve:segserve" in args for args in copies)


def test_steps_call_what_the_makefile_has(repo_root: Path, instructions: list[tuple[str, str]]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repo_root / "Makefile").read_text(), re.MULTILINE))
    steps = [
        args.split()
        for instruction, args in instructions
        if instruction == "RUN" and args.startswith("make ")
    ]
    called = {word for step in steps for word in step[1:] if "=" not in word}
    assert called == {"setup", "package"}
    assert called <= targets


def test_what_is_copied_exists_and_reaches_the_builder(
    repo_root: Path, instructions: list[tuple[str, str]]
) -> None:
    let_in = re.findall(r"^!(\S+)", (repo_root / ".dockerignore").read_text(), re.MULTILINE)
    assert all((repo_root / path).exists() for path in let_in)
    for instruction, args in instructions:
        if instruction == "COPY" and "--from" not in args:
            sources = [word for word in args.split() if not word.startswith("--")][:-1]
            assert all(source == "." or source in let_in for source in sources), args


def test_the_image_starts_the_server_beyond_loopback(
    repo_root: Path, instructions: list[tuple[str, str]]
) -> None:
    (start,) = (json.loads(args) for instruction, args in instructions if instruction == "CMD")
    listening = start[start.index("start") + 1 :]
    assert listening == [
        "--host",
        "0.0.0.0",
        "--metrics-host",
        "0.0.0.0",
    ]  # as neither is reached from outside else
    properties = read_properties(repo_root / "config.properties")
    (exposed,) = [args.split() for instruction, args in instructions if instruction == "EXPOSE"]
    keys = ("inference_address", "metrics_address")
    assert exposed == [properties[key].rpartition(":")[2] for key in keys]
    program = [sys.executable, *start[1 : start.index("start") + 1], "--help"]
    done = subprocess.run(program, cwd=repo_root, capture_output=True, text=True, check=True)
    assert re.search(r" --host\b", done.stdout)
    assert re.search(r" --metrics-host\b", done.stdout)


def test_the_user_is_a_number_and_owns_what_is_written(instructions: list[tuple[str, str]]) -> None:
    """Kubernetes' runAsNonRoot takes numbers only; nothing after the first USER may go back to root."""
    users = [args for instruction, args in instructions if instruction == "USER"]
    assert users == ["10001"]
    (made,) = [args for instruction, args in instructions if instruction == "RUN" and "useradd" in args]
    assert "--uid 10001 segserve" in made
    assert "--owner=segserve --group=segserve /app /app/run" in made


def test_the_read_only_command_makes_writable_what_the_server_writes(repo_root: Path) -> None:
    text = (repo_root / "Dockerfile").read_text()
    (shown,) = re.findall(r"^#\s+docker run .*--read-only.*?segserve:cpu$", text, re.MULTILINE | re.DOTALL)
    mounts = dict(re.findall(r"--tmpfs ([\w/.]+):(\S+)", shown))
    assert set(mounts) == {"/app/run", "/home/segserve/.cache", "/tmp"}
    assert "--cap-drop=ALL" in shown
    options = mounts["/app/run"].split(",")
    assert {"exec", "uid=10001", "mode=0700"} <= set(options)  # netty loads its library from RUN/tmp
    assert "uid=10001" in mounts["/home/segserve/.cache"].split(",")


COMMANDS = ("client_wheel", "front", "rollback", "rollout", "segment", "server", "status")


@pytest.fixture(scope="module")
def runtime(
    repo_root: Path, instructions: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with what the runtime stage copies of the repository, and nothing else."""
    folder, stage = tmp_path_factory.mktemp("image"), ""
    for instruction, args in instructions:
        if instruction == "FROM":
            stage = args.split(" AS ")[1]
        if instruction == "COPY" and stage == "runtime" and "--from" not in args:
            source, target = (word for word in args.split() if not word.startswith("--"))
            path = repo_root / source
            if path.is_dir():
                shutil.copytree(path, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, folder / target)
    return folder


def in_image(runtime: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Our Python runs that module where only the image's files can be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=runtime, env=environment, capture_output=True, text=True
    )


def test_the_health_check_has_all_that_it_imports(runtime: Path, instructions: list[tuple[str, str]]) -> None:
    (check,) = [args for instruction, args in instructions if instruction == "HEALTHCHECK"]
    program = json.loads(check.partition(" CMD ")[2])
    assert program[:2] == [".venv/bin/python", "-m"]
    done = in_image(runtime, *program[2:])
    assert (done.returncode, done.stdout, done.stderr) == (1, "nothing runs in run\n", "")


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_starts_in_the_image(runtime: Path, module: str) -> None:
    done = in_image(runtime, f"deploy.{module}", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_those_are_all_commands(repo_root: Path) -> None:
    commands = {path.stem for path in (repo_root / "deploy").glob("*.py") if "__main__" in path.read_text()}
    assert commands == set(COMMANDS)


def test_the_clients_wheel_is_built_elsewhere(runtime: Path) -> None:
    done = in_image(runtime, "deploy.client_wheel")
    assert done.returncode == 2
    assert "build the wheel in a clone of the repository" in " ".join(done.stderr.split())
