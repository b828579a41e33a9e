"""Every answer format by every way to ask for it, and the same mask in all of them, offline and served."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photos import Photo
from segserve.segmenter import Segmenter
from tests.e2e.serving import Server, labels_of, labels_of_json

INVOKE = "/models/rooms/invoke"
CONTENT_TYPES = {
    "png": "image/png", "json": "application/json", "npy": "application/x-npy", "overlay": "image/jpeg",
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(room: Photo, offline: Segmenter) -> NDArray[np.uint8]:
    """The label map of `room`, computed without a server from the artefact that is served."""
    labels = offline.segment(room.jpeg)
    assert len(np.unique(labels)) > 2, "a mask of one class would prove nothing"
    return labels


def test_png_is_the_default_and_is_the_offline_label_map(
    server: Server, room: Photo, expected: NDArray[np.uint8], offline: Segmenter
) -> None:
    answer = server.post(room.jpeg)
    np.testing.assert_array_equal(labels_of(answer), expected)
    with Image.open(io.BytesIO(answer.content)) as image:
        palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(palette[: len(offline.spec.palette)], np.array(offline.spec.palette))


def ask(server: Server, photo: Photo, how: str, name: str) -> httpx.Response:
    if how == "accept":
        return server.post(photo.jpeg, accept=CONTENT_TYPES[name])
    if how == "accept among others":
        return server.post(photo.jpeg, accept=f"text/html, {CONTENT_TYPES[name]};q=0.9, image/webp")
    if how == "query":
        return server.post(photo.jpeg, INVOKE, format=name)
    if how == "query wins over accept":
        return server.post(photo.jpeg, INVOKE, "image/png" if name != "png" else "image/jpeg", format=name)
    assert how == "field"
    return server.http.post(
        "/predictions/rooms", files={"data": ("room.jpg", photo.jpeg)}, data={"format": name}
    )


@pytest.mark.parametrize("name", CONTENT_TYPES)
@pytest.mark.parametrize("how", ["accept", "accept among others", "query", "query wins over accept", "field"])
def test_every_format_by_every_way(
    server: Server, room: Photo, expected: NDArray[np.uint8], how: str, name: str
) -> None:
    answer = ask(server, room, how, name)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == CONTENT_TYPES[name]
    if name == "json":
        np.testing.assert_array_equal(labels_of_json(answer), expected)
    elif name == "overlay":
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.format, image.height, image.width) == ("JPEG", *expected.shape)
    else:
        np.testing.assert_array_equal(labels_of(answer), expected)


def test_json_says_what_was_found_and_by_whom(
    server: Server, room: Photo, expected: NDArray[np.uint8], offline: Segmenter
) -> None:
    body = server.post(room.jpeg, accept="application/json").json()
    assert body["image"] == {"width": room.width, "height": room.height}
    assert body["model"] == {"name": "rooms", "version": "1.0"}
    ids, counts = np.unique(expected, return_counts=True)
    assert [(found["id"], found["pixels"]) for found in body["classes"]] == list(
        zip(ids, counts, strict=True)
    )
    for found in body["classes"]:
        assert found["name"] == offline.spec.classes[found["id"]]
        assert found["fraction"] == found["pixels"] / expected.size
    assert {"decode", "engine", "mask"} <= set(body["timings_ms"])


def test_headers_tell_version_engine_device_batch_and_time(server: Server, room: Photo) -> None:
    headers = server.post(room.jpeg).headers
    assert headers["x-segserve-version"] == "1.0"
    assert headers["x-segserve-engine"] == "onnx"
    assert headers["x-segserve-device"] == "cpu"
    assert int(headers["x-segserve-batch-size"]) >= 1
    assert {part.split(";dur=")[0] for part in headers["server-timing"].split(", ")} >= {
        "decode",
        "engine",
        "mask",
    }


@pytest.mark.parametrize("how", ["query", "field"])
def test_classes_restrict_what_comes_back(
    server: Server, room: Photo, expected: NDArray[np.uint8], offline: Segmenter, how: str
) -> None:
    wanted = np.unique(expected)[:2]
    names = ",".join(offline.spec.classes[class_id] for class_id in wanted)
    if how == "query":
        answer = server.post(room.jpeg, INVOKE, format="npy", classes=names)
    else:
        fields = {"format": "npy", "classes": names}
        answer = server.http.post("/predictions/rooms", files={"data": room.jpeg}, data=fields)
    np.testing.assert_array_equal(labels_of(answer), np.where(np.isin(expected, wanted), expected, 255))


def test_the_overlay_shows_the_mask(
    server: Server, room: Photo, expected: NDArray[np.uint8], offline: Segmenter
) -> None:
    answer = server.post(room.jpeg, accept="image/jpeg")
    with Image.open(io.BytesIO(answer.content)) as image, Image.open(io.BytesIO(room.jpeg)) as photo:
        change = np.asarray(image, np.float32) - np.asarray(photo, np.float32)
        colours = np.array(offline.spec.palette, np.float32)[expected] - np.asarray(photo, np.float32)
    # what was blended in points from the photo to the colour of the class
    assert np.corrcoef(change.ravel(), colours.ravel())[0, 1] > 0.95
