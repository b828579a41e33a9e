"""The curl lines of README and docs/, run as they stand against a real server (only its address differs)."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.photos import Photo
from tests.e2e.serving import Server
from tests.readme import blocks, lines

LINES = list(dict.fromkeys(line for block in blocks() if block.check == "server" for line in lines(block)))


def test_there_are_lines_to_run() -> None:
    assert len(LINES) >= 4
    assert all(line.startswith("curl ") for line in LINES)


@pytest.mark.parametrize("line", LINES)
def test_line_answers_with_what_it_asks_for(line: str, server: Server, room: Photo, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl, which is not installed")
    (tmp_path / "photo.jpg").write_bytes(room.jpeg)
    assert "http://127.0.0.1:8080" in line
    words = shlex.split(line.replace("http://127.0.0.1:8080", server.running.url))
    done = subprocess.run([*words, "--fail", "--silent", "--show-error"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    size = (room.height, room.width)
    if "-o" not in words:
        found = json.loads(done.stdout)
        assert (found["image"]["height"], found["image"]["width"]) == size
        return
    written = tmp_path / words[words.index("-o") + 1]
    if written.suffix == ".npy":
        assert np.load(written, allow_pickle=False).shape == size
        return
    with Image.open(io.BytesIO(written.read_bytes())) as image:
        assert image.format == {".png": "PNG", ".jpg": "JPEG"}[written.suffix]
        assert (image.height, image.width) == size
