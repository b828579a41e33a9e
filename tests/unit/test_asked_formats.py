"""What a load asks for decides which answers can be judged; in a process of its own, as Locust patches it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OVERLAYS_ALONE = """
from types import SimpleNamespace

from locust.env import Environment

from benchmarks.known_masks import Masks
from benchmarks.load_photos import parse_formats
from benchmarks.load_users import RoomsUser
from tests.unit.test_judge import A, answer_of

RoomsUser.host, RoomsUser.masks = "http://127.0.0.1:1", Masks(num_classes=3)
user, overlay = RoomsUser(Environment(user_classes=[RoomsUser])), answer_of("overlay")
headers = {"x-segserve-version": overlay.version, "content-type": overlay.content_type}
response = SimpleNamespace(status_code=200, headers=headers, content=overlay.body)
for RoomsUser.formats in map(parse_formats, ("png=0,overlay=1", "png=0.1,overlay=1")):
    print(user._wrong(A, "overlay", response))
"""


def test_overlays_of_a_version_whose_png_never_comes_are_failed_requests(repo_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OVERLAYS_ALONE], cwd=repo_root, capture_output=True, text=True, timeout=200
    )
    assert done.stdout == (
        "overlay: nothing tells what version 1.2 shows; ask for png as well (--formats)\nNone\n"
    ), done.stderr
