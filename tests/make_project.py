"""The Makefile in a folder of its own, with a stand-in for Python that writes down how it was called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

RECORDER = """#!/bin/sh
echo "$*" >> calls
case "$*" in $FAIL_ON) exit 3;; esac
"""


class Project:
    """A copy of the Makefile beside empty stand-ins for the files that its rules look at."""

    def __init__(self, folder: Path, repo_root: Path) -> None:
        self.folder = folder
        shutil.copy(repo_root / "Makefile", folder)
        for name in ("pyproject.toml", "constraints.txt", "model_store/demo/rooms.safetensors",
                     "segserve/mask.py", "segserve/engines/onnx.py", "export/build.py", "handlers/handler.py",
                     "training/pspnet.py", "benchmarks/photos.py"):  # fmt: skip
            self.touch(name, 100)
        self.touch(".venv/.ready", 200)
        (folder / "build").mkdir()
        (folder / "build/rooms.engine").write_text("onnx\n")
        self.touch("build/rooms.engine", 200)
        python = folder / ".venv/bin/python"
        self.touch(".venv/bin/python", 100)
        python.write_text(RECORDER)
        python.chmod(0o755)

    def touch(self, name: str, mtime: int) -> None:
        """Make the file, of that age."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (mtime, mtime))

    def make(self, *arguments: str, fail_on: str = "nothing") -> subprocess.CompletedProcess[str]:
        """Run make with nothing of a make around these tests in its environment."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "FAIL_ON": fail_on}
        return subprocess.run(
            ["make", *arguments], cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def calls(self) -> list[str]:
        """How Python was called, in order."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []
