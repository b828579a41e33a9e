"""Photos that share a batch don't share their fate, and versions that share a server don't share their weights."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photos import Photo
from deploy import processes
from segserve.segmenter import Segmenter
from tests.e2e.serving import Server, at_once, error_of, labels_of, labels_of_json, run

# The model `batched` waits until 8 requests are there, so what is sent at once is exactly one batch.
BATCHED = "/predictions/batched"
BATCH_SIZE = 8


def alone(offline: Segmenter, photos: Sequence[Photo]) -> list[NDArray[np.uint8]]:
    masks = [offline.segment(photo.jpeg) for photo in photos]
    assert len({mask.tobytes() for mask in masks}) == len(masks), "equal masks would hide a mix-up"
    return masks


def test_sizes_and_orientations_may_differ_within_a_batch(
    server: Server, rooms: tuple[Photo, ...], room: Photo, offline: Segmenter
) -> None:
    photos = (*rooms, room)
    answers = at_once(server, [photo.jpeg for photo in photos], BATCHED)
    assert [answer.headers["x-segserve-batch-size"] for answer in answers] == [str(BATCH_SIZE)] * BATCH_SIZE
    for photo, answer, mask in zip(photos, answers, alone(offline, photos), strict=True):
        assert labels_of(answer).shape == (photo.height, photo.width)
        np.testing.assert_array_equal(labels_of(answer), mask)


def test_a_corrupt_image_harms_no_neighbour(
    server: Server, rooms: tuple[Photo, ...], offline: Segmenter
) -> None:
    masks = alone(offline, rooms)
    for corrupt in (b"", b"no image", rooms[0].jpeg[:2000], rooms[0].jpeg[:-2000]):
        images = [photo.jpeg for photo in rooms]
        images.insert(3, corrupt)
        answers = at_once(server, images, BATCHED)
        refused = answers.pop(3)
        assert (refused.status_code, error_of(refused)["type"]) == (400, "BadImage")
        for answer, mask in zip(answers, masks, strict=True):
            # all the others went through the engine together: the corrupt one was in their batch
            assert answer.headers["x-segserve-batch-size"] == str(BATCH_SIZE - 1)
            np.testing.assert_array_equal(labels_of(answer), mask)


def test_each_request_of_a_batch_gets_its_own_format_and_classes(
    server: Server, rooms: tuple[Photo, ...], offline: Segmenter
) -> None:
    photos = (*rooms, rooms[0])
    masks = [offline.segment(photo.jpeg) for photo in photos]
    only = offline.spec.classes[int(masks[5].max())]
    wishes = [{"format": name} for name in ("png", "json", "npy", "overlay", "png", "npy", "tiff", "json")]
    wishes[5]["classes"] = only

    def ask(photo: Photo, wish: Mapping[str, str]) -> httpx.Response:
        return server.post(photo.jpeg, "/models/batched/invoke", **wish)

    with ThreadPoolExecutor(BATCH_SIZE) as pool:
        answers = list(pool.map(ask, photos, wishes))
    for position in (0, 2, 4):
        np.testing.assert_array_equal(labels_of(answers[position]), masks[position])
    for position in (1, 7):
        np.testing.assert_array_equal(labels_of_json(answers[position]), masks[position])
    assert answers[3].headers["content-type"] == "image/jpeg"
    np.testing.assert_array_equal(labels_of(answers[5]), np.where(masks[5] == masks[5].max(), masks[5], 255))
    assert (answers[6].status_code, error_of(answers[6])["type"]) == (406, "FormatNotAcceptable")
    assert {answer.headers["x-segserve-batch-size"] for answer in answers if answer.is_success} == {"7"}


def test_large_label_maps_at_once_come_packed_and_keep_nobody_waiting(
    server: Server, room: Photo, offline: Segmenter
) -> None:
    with Image.open(io.BytesIO(room.jpeg)) as image, io.BytesIO() as file:
        image.resize((4000, 3000), Image.Resampling.NEAREST).save(file, "JPEG")
        large = file.getvalue()
    mask = offline.segment(large)

    def ask(position: int) -> httpx.Response:
        headers = {"Accept": "application/x-npy", "Accept-Encoding": "identity" if position < 5 else "gzip"}
        return server.http.post(BATCHED, content=room.jpeg if position == 0 else large, headers=headers)

    with ThreadPoolExecutor(BATCH_SIZE) as pool:
        small, *others = pool.map(ask, range(BATCH_SIZE))
    assert small.headers["x-segserve-batch-size"] == str(BATCH_SIZE)
    np.testing.assert_array_equal(labels_of(small), offline.segment(room.jpeg))
    unpacked, packed = others[:4], others[4:]
    for answer in packed:
        assert int(answer.headers["content-length"]) < mask.size / 10
        np.testing.assert_array_equal(labels_of(answer), mask)
    sent = [answer for answer in unpacked if answer.is_success]
    for answer in sent:
        np.testing.assert_array_equal(labels_of(answer), mask)
    # 12 MB each: the fourth would make it 13 GB to copy
    assert len(sent) == 3
    [refused] = [answer for answer in unpacked if not answer.is_success]
    assert (refused.status_code, error_of(refused)["type"]) == (503, "Overloaded")
    assert refused.headers["retry-after"] == "1"


def test_two_versions_side_by_side(
    server: Server, room: Photo, offline_versions: Mapping[str, Segmenter]
) -> None:
    masks = {version: segmenter.segment(room.jpeg) for version, segmenter in offline_versions.items()}
    assert (masks["1.0"] != masks["2.0"]).mean() > 0.05, "the versions must differ for this to prove anything"
    for version, mask in masks.items():
        answer = server.post(room.jpeg, f"/predictions/rooms/{version}")
        assert answer.headers["x-segserve-version"] == version
        np.testing.assert_array_equal(labels_of(answer), mask)
    assert server.post(room.jpeg).headers["x-segserve-version"] == "1.0"  # the default
    assert server.post(room.jpeg, "/predictions/rooms/3.0").status_code == 404


def test_a_worker_that_dies_is_replaced(server: Server) -> None:
    [pid, *others] = server.worker_pids("batched")
    assert others == []
    os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        status = run("deploy.status", "--json", "--run-dir", server.running.run_dir)
        return status.returncode == 0 and server.worker_pids("batched") != [pid]

    assert processes.wait_until(replaced, timeout_s=60)
    with server.management() as management:  # not only now: for as long as it takes
        [model] = management.get("/models/batched").json()
    assert model["maxRetryTimeoutInSec"] == 2_000_000


def test_the_model_log_has_no_line_for_each_batch(server: Server, room: Photo) -> None:
    server.post(room.jpeg)
    text = Path(server.running.log_dir, "model_log.log").read_text()
    assert "is ready" in text  # what the worker says of itself is there
    assert "Backend received inference" not in text
