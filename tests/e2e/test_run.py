"""`benchmarks.run` as it is called: real Locust, the real service with a toy engine, a server that answers wrongly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import answers
from benchmarks.photos import Photo
from tests.e2e.load_service import mirrored, service_over_http

NUM_PHOTOS = 2
SERVICE_S = 0.08


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, rooms: tuple[Photo, ...]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, photo in enumerate(rooms[:NUM_PHOTOS]):
        (folder / f"{number}.jpg").write_bytes(photo.jpeg)
    return folder


def run_scenario(
    repo_root: Path, url: str, photos: Path, out: Path, scenario: str, *options: str
) -> tuple[int, str]:
    """Returns: exit code, everything that it said."""
    command = [
        sys.executable, "-m", "benchmarks.run", scenario, "--out", str(out), "--server", url, "--num-classes", "3",
        "--photos", str(photos), "--warm-s", "0.3", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=250)
    return done.returncode, done.stdout + done.stderr


def test_a_latency_run_fills_its_folder(repo_root: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with service_over_http(lambda _, photo: photo) as url:
        code, text = run_scenario(
            repo_root, url, photos, out, "latency", "--concurrency", "2", "--level-s", "2"
        )
    result = json.loads((out / "result.json").read_text())
    # on a busy machine Locust itself is
    assert [line for line in result["failures"] if "bottleneck" not in line] == [], text
    assert code == (1 if result["failures"] else 0)
    rows = answers.read(out / "answers.jsonl")
    assert (result["schema"], result["scenario"]) == (1, "latency")
    assert result["slo"] == {"held": True, "missed": []}
    assert result["figures"]["p50 at 2"]["value"] == pytest.approx(answers.percentiles_ms(rows)["p50"])
    assert any("--run-dir" in line for line in result["missing"])  # the server is a stranger here
    [anatomy] = result["tables"]["Where the time of a median answer goes"]
    # a mean of the answers around the median, so not p50 itself: on a busy machine they lie far apart
    assert anatomy["sum/p50"] == pytest.approx(1, abs=0.5)
    events = [json.loads(line)["what"] for line in (out / "events.jsonl").read_text().splitlines()]
    assert events == ["begin 2 clients", "end 2 clients"]
    assert "<svg" in (out / "report.html").read_text()
    assert "right masks/s" in (out / "table.md").read_text()
    assert json.loads((out / "samples.jsonl").read_text().splitlines()[0])["gpus"] == []


def test_wrong_masks_and_missed_objectives_fail_the_run(
    repo_root: Path, photos: Path, tmp_path: Path
) -> None:
    objectives = tmp_path / "slo.toml"
    objectives.write_text('[[objective]]\nname = "at once"\np50_ms = 0.1\n')

    def tamper(number: int, photo: bytes) -> bytes:
        return photo if number < NUM_PHOTOS or number % 2 else mirrored(photo)

    with service_over_http(tamper) as url:
        options = ("--concurrency", "1", "--level-s", "1.5", "--slo", str(objectives), "--json")
        code, text = run_scenario(repo_root, url, photos, tmp_path / "out", "latency", *options)
    assert code == 1, text
    assert "1 client: SLO 'at once': p50 was" in text
    assert "answers with status 200 were wrong: png: another mask" in text


def test_requests_that_are_lost_fail_the_run(repo_root: Path, photos: Path, tmp_path: Path) -> None:
    """All of them, so that there are no latencies to tell."""

    def tamper(number: int, photo: bytes) -> bytes:
        return photo if number < NUM_PHOTOS else b"junk"

    with service_over_http(tamper) as url:
        options = ("--concurrency", "1", "--level-s", "1", "--json")
        code, text = run_scenario(repo_root, url, photos, tmp_path / "out", "latency", *options)
    assert code == 1, text

    def not_json(constant: str) -> None:
        raise AssertionError(constant)

    result = json.loads((tmp_path / "out" / "result.json").read_text(), parse_constant=not_json)
    [clients] = result["tables"]["Clients"]
    assert clients["p50 ms"] is None
    said, before = [line for line in result["failures"] if "bottleneck" not in line]
    assert said.startswith(f"{clients['answers']} requests were lost, the first: status 400")
    assert re.match(r"in a warm-up or after an end: \d+ requests were lost, the first: status 400", before)
    assert f"error: {said}" in text


def test_a_spike_is_loaded_to_its_end(repo_root: Path, photos: Path, tmp_path: Path) -> None:
    """A shape ends by itself, and waits for what is on its way then."""
    out = tmp_path / "out"
    with service_over_http(lambda _, photo: photo) as url:
        options = ("--calm-s", "3", "--spike-s", "2", "--spike-users", "4")
        code, text = run_scenario(repo_root, url, photos, out, "spike", *options)
    result = json.loads((out / "result.json").read_text())
    # on a busy machine neither is the load's fault
    chance = ("bottleneck", "never was calm again")
    assert [line for line in result["failures"] if not any(words in line for words in chance)] == [], text
    assert code == (1 if result["failures"] else 0)
    parts = result["tables"]["Before, during, after"]
    assert [part["part"] for part in parts] == ["before", "spike", "after"]
    assert all(part["answers"] for part in parts)
    assert "Shape test completed, shutting down" in (out / "load-1.log").read_text()


def test_capacity_is_the_rate_that_still_holds(repo_root: Path, photos: Path, tmp_path: Path) -> None:
    """A server that takes 80 ms for each, one after another: 12.5 a second at the very most."""
    out, objectives = tmp_path / "out", tmp_path / "slo.toml"
    objectives.write_text('[[objective]]\nname = "soon"\np95_ms = 300\n')

    def slow(_: int, photo: bytes) -> bytes:
        time.sleep(SERVICE_S)  # one at a time: the service has a lock
        return photo

    options = ("--trial-s", "4", "--bisections", "1", "--repeats", "0", "--slo", str(objectives))
    with service_over_http(slow) as url:
        _, text = run_scenario(repo_root, url, photos, out, "capacity", *options)
    assert (out / "result.json").exists(), text
    result = json.loads((out / "result.json").read_text())
    assert result["tables"]["Capacity"][0]["higher rates"] == "missed"
    assert any(trial["held"] == "no" for trial in result["tables"]["Trials, in their order"])
    found = result["figures"]
    assert found["capacity"]["value"] < 1.15 / SERVICE_S  # more would wait longer than 300 ms on any machine
    assert found["capacity, low"]["value"] <= found["capacity"]["value"] <= found["capacity, high"]["value"]


def test_usage_errors_are_one_line(repo_root: Path, photos: Path, tmp_path: Path) -> None:
    code, text = run_scenario(repo_root, "127.0.0.1:8080", photos, tmp_path / "out", "latency")
    assert (code, text) == (2, "error: --server 127.0.0.1:8080: expected http://HOST:PORT\n")
