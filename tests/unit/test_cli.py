"""What a command says of a file or folder that it cannot use: one line, exit code 2."""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy import segment
from segserve.cli import command, run
from segserve.errors import Interrupted


@dataclass(frozen=True)
class Config:
    """One file."""

    file: Path


def read(config: Config) -> None:
    config.file.read_bytes()


def lose_connection(_: Config) -> None:
    raise ConnectionResetError("our own fault")


def ended(monkeypatch: pytest.MonkeyPatch, config_type: type, main: object, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["command", *arguments])
    with pytest.raises(SystemExit) as raised:
        run(config_type, main)  # type: ignore[arg-type]
    return int(raised.value.code or 0)


def test_a_path_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, Config, read, "--file", str(tmp_path)) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"
    assert ended(monkeypatch, Config, read, "--file", str(tmp_path / "none")) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: No such file or directory\n"


@pytest.mark.parametrize("told", [False, True])
def test_a_terminal_that_was_closed_takes_no_exit_code_along(
    monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Such as that of a training that saves at SIGHUP: its progress bar, or the sentence, can't be written any more."""

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    def stop(_: Config) -> None:
        try:
            raise Interrupted("stopped")
        finally:
            if not told:
                print("bar", file=Gone())

    monkeypatch.setattr("sys.stderr", Gone())
    assert ended(monkeypatch, Config, stop, "--file", "x") == Interrupted.exit_code == 75


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Writing says no name, as opening does."""

    def fill(_: Config) -> None:
        with Path("/dev/full").open("w") as disk:
            disk.write("x" * 100_000)

    assert ended(monkeypatch, Config, fill, "--file", "x") == 2
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_an_error_that_is_about_no_file_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["command", "--file", "x"])
    with pytest.raises(ConnectionResetError):
        run(Config, lose_connection)


SAYS_MUCH = """
import socket, sys
from dataclasses import dataclass
from segserve.cli import run

@dataclass(frozen=True)
class Config:
    rich: bool = False

def main(config: Config) -> None:
    if config.rich:
        from rich.console import Console
        Console().print("word " * 9999)
    print("word " * 9999)

run(Config, main)
"""


@pytest.mark.parametrize("arguments", [["--no-rich"], ["--rich"], ["--help"]])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_who_stops_reading_gets_no_traceback(kind: str, arguments: list[str], repo_root: Path) -> None:
    ends = [end.detach() for end in socket.socketpair()] if kind == "socket" else os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", SAYS_MUCH, *arguments],
        cwd=repo_root,
        stdout=ends[1],
        stderr=subprocess.PIPE,
        text=True,
    ) as done:
        try:
            for end in ends:
                os.close(end)
            told = done.communicate(timeout=60)[1]
        finally:
            done.kill()
    assert (done.returncode, told) == (128 + signal.SIGPIPE, "")


def test_a_closed_standard_output_is_no_error(repo_root: Path) -> None:
    line = shlex.join([sys.executable, "-c", SAYS_MUCH]) + " >&-"
    done = subprocess.run(["sh", "-c", line], cwd=repo_root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_segment_finds_out_that_it_cannot_write_before_it_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"x")
    # nobody listens at the URL: an attempt to send would say so
    arguments = (str(photo), "--out", str(photo / "out"), "--url", "http://127.0.0.1:1")
    assert ended(monkeypatch, segment.Config, segment.main, *arguments) == 2
    assert capsys.readouterr().err == f"error: {photo / 'out'}: Not a directory\n"


def test_a_command_in_a_message_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.executable", str(tmp_path / ".venv/bin/python"))
    assert command("deploy.server", "stop") == ".venv/bin/python -m deploy.server stop"
    monkeypatch.setattr("sys.executable", "/usr/bin/python3.11")
    assert command("x", "--run-dir", Path("a b")) == "/usr/bin/python3.11 -m x --run-dir 'a b'"
