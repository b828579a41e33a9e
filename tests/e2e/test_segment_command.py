"""`python -m deploy.segment`, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.photos import Photo
from deploy.client import Client, Refused
from segserve.segmenter import Segmenter
from tests.e2e.serving import Server, run


@pytest.fixture
def photos(tmp_path: Path, rooms: tuple[Photo, ...]) -> list[Path]:
    paths = []
    for name, photo in zip(("a", "b"), rooms, strict=False):
        paths.append(tmp_path / f"{name} [room].jpg")  # brackets are markup to rich
        paths[-1].write_bytes(photo.jpeg)
    return paths


def test_one_photo_gives_mask_overlay_result_and_a_table(
    server: Server, photos: list[Path], tmp_path: Path, offline: Segmenter
) -> None:
    out = tmp_path / "new" / "out"
    result = run("deploy.segment", photos[0], "--out", out, "--url", server.running.url)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["mask.png", "overlay.jpg", "result.json"]
    labels = offline.segment(photos[0].read_bytes())
    with Image.open(out / "mask.png") as mask, Image.open(out / "overlay.jpg") as overlay:
        np.testing.assert_array_equal(np.asarray(mask), labels)
        assert (overlay.height, overlay.width) == labels.shape
    assert "[room]" in result.stdout
    for found in json.loads((out / "result.json").read_text())["classes"]:
        row = next(line for line in result.stdout.splitlines() if found["name"] in line.split())
        assert f"{found['fraction']:.1%}" in row
        assert f"{found['pixels']:,}" in row


def test_several_photos_get_a_folder_each_and_one_refused_fails_the_command_but_not_the_rest(
    server: Server, photos: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:500])
    out = tmp_path / "out"
    result = run(
        "deploy.segment", photos[0], broken, photos[1], "--out", out, "--url", server.running.url, "--json"
    )
    assert result.returncode == 1
    assert sorted(path.name for path in out.iterdir()) == ["a [room]", "b [room]"]
    first, refused, last = json.loads(result.stdout)
    assert refused["status"] == 400
    assert refused["photo"] == str(broken)
    assert refused["error"].startswith("400 Bad Request: ")
    for answer, photo in ((first, photos[0]), (last, photos[1])):
        assert answer["photo"] == str(photo)
        assert (
            sum(found["pixels"] for found in answer["classes"])
            == answer["image"]["width"] * answer["image"]["height"]
        )
        assert all(Path(file).exists() for file in answer["files"])


def test_another_version_on_request(server: Server, photos: list[Path], tmp_path: Path) -> None:
    options = ("--out", tmp_path / "out", "--url", server.running.url, "--json", "--model", "rooms/2.0")
    [result] = json.loads(run("deploy.segment", photos[0], *options).stdout)
    assert result["model"] == {"name": "rooms", "version": "2.0"}


def test_the_client_gets_the_classes_that_it_names_of_the_version_that_it_names(
    server: Server, photos: list[Path]
) -> None:
    image = photos[0].read_bytes()
    with Client(server.running.url, "rooms/2.0") as client:
        everything = json.loads(client.segment(image, "json"))
        name = everything["classes"][-1]["name"]
        one = json.loads(client.segment(image, "json", classes=[name]))
        with pytest.raises(Refused, match="no class 'sky, blue'") as raised:
            client.segment(image, "png", classes=[name, "sky, blue"])
    assert len(everything["classes"]) > 1
    assert one["classes"] == everything["classes"][-1:]
    assert one["model"]["version"] == "2.0"
    assert raised.value.http_status == 422


def test_no_server_says_how_to_start_one(
    photos: list[Path], tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    [port] = free_ports(1)
    result = run("deploy.segment", photos[0], "--out", tmp_path / "out", "--url", f"http://127.0.0.1:{port}")
    assert result.returncode == 2
    assert "start one: make serve" in result.stderr
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_use_is_told_before_anything_is_sent(photos: list[Path], tmp_path: Path) -> None:
    missing = run("deploy.segment", tmp_path / "none.jpg", "--out", tmp_path / "out")
    assert (missing.returncode, "no such file" in missing.stderr) == (2, True)
    key_file = run(
        "deploy.segment", photos[0], "--out", tmp_path / "out", "--token-file", tmp_path / "key_file.json"
    )
    assert (key_file.returncode, "holds no inference token" in key_file.stderr) == (2, True)
