"""The load generator's own limits: the server that answers at once, and the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.answers import server_ms
from benchmarks.client import drive, post
from benchmarks.generator import at_once
from benchmarks.judge import Answer, read_mask
from segserve.encode import png
from segserve.labels import palette


def test_it_answers_each_request_with_the_mask_and_our_headers() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    with at_once(png(labels, palette(3))) as url:
        requests = [post(url, bytes(size), {}) for size in (1, 300_000)]
        load = drive(url, requests, 3, 0.0, min_answers=30, keep_bodies=1)
    assert not load.failed
    assert len(load.answers) >= 30
    first = load.answers[0]
    assert first.body is not None
    answer = Answer("png", first.headers["x-segserve-version"], first.headers["content-type"], first.body)
    np.testing.assert_array_equal(read_mask(answer, (3, 4), 3), labels)
    assert set(server_ms(first.headers["server-timing"])) == {"decode", "engine", "mask", "encode", "total"}


def test_both_clients_are_measured(repo_root: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.generator", "--seconds", "0.5", "--users", "2", "--height", "120", "--width",
        "160", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["client"] for row in report["rows"]] == ["benchmarks.client", "Locust, every answer judged"]
    assert all(row["requests/s"] > 0 and row["per core, requests/s"] > 0 for row in report["rows"])
    assert report["command"].startswith("python -m benchmarks.generator")
