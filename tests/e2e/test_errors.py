"""What is wrong with one request is told to its sender, in JSON, with the status that fits, and harms nobody."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from benchmarks.bad_files import bad_requests
from benchmarks.photos import Photo
from segserve.image import MAX_PIXELS
from tests.e2e.serving import Server, error_of, labels_of

INVOKE = "/models/rooms/invoke"


def uniform_png(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height), 1).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "status", "error_type"),
    [
        (b"", 400, "BadImage"),
        (b"no image at all", 400, "BadImage"),
        (b"<html><body>photo</body></html>", 400, "BadImage"),
        (b"\x89PNG\r\n\x1a\n", 400, "BadImage"),
        (b"%PDF-1.7\n", 415, "ImageFormatNotServed"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "ImageFormatNotServed"),
        (uniform_png(8001, 8000), 413, "ImageTooLarge"),
    ],
    ids=["empty", "text", "html", "png without data", "pdf", "svg", "64.008 megapixels"],
)
def test_status_and_type_of_a_body_that_is_no_photo(
    server: Server, body: bytes, status: int, error_type: str
) -> None:
    answer = server.post(body)
    assert (answer.status_code, error_of(answer)["type"]) == (status, error_type)


def test_a_json_body_is_refused_and_no_worker_parses_it(server: Server) -> None:
    answer = server.http.post("/predictions/rooms", json=[{"instances": [1]}])
    assert (answer.status_code, error_of(answer)["type"]) == (400, "BadImage")
    assert "JSON" in error_of(answer)["message"]
    for pid in server.worker_pids("rooms"):
        assert psutil.Process(pid).environ()["TS_DECODE_INPUT_REQUEST"] == "false"


def test_a_form_whose_header_lacks_the_boundary_is_told_so(server: Server, room: Photo) -> None:
    """As a client sends it that sets the header by itself; with the boundary the same body is fine."""
    form = httpx.Request("POST", "http://any", files={"data": room.jpeg})
    body, content_type = form.read(), form.headers["Content-Type"]
    answers = [
        server.http.post("/predictions/rooms", content=body, headers={"Content-Type": sent})
        for sent in (content_type, content_type.partition(";")[0])
    ]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert error_of(answers[1]) == {
        "type": "BadImage",
        "message": "the form's Content-Type lacks its boundary; let your client set that header",
    }


def test_a_truncated_photo_is_refused(server: Server, room: Photo) -> None:
    answer = server.post(room.jpeg[: len(room.jpeg) // 2])
    assert (answer.status_code, error_of(answer)["type"]) == (400, "BadImage")


def test_a_format_that_does_not_exist_is_406_and_names_those_that_do(server: Server, room: Photo) -> None:
    for answer in (server.post(room.jpeg, accept="video/mp4"), server.post(room.jpeg, INVOKE, format="tiff")):
        assert answer.status_code == 406
        error = error_of(answer)
        assert error["type"] == "FormatNotAcceptable"
        assert "image/png" in error["message"]


def test_an_unknown_class_is_422_and_names_the_known_ones(server: Server, room: Photo) -> None:
    answer = server.post(room.jpeg, INVOKE, classes="floor,lava")
    assert answer.status_code == 422
    error = error_of(answer)
    assert error["type"] == "UnknownClass"
    assert "lava" in error["message"]
    assert "ceiling" in error["message"]


@pytest.mark.parametrize("kind", [bad.name for bad in bad_requests(b"")])
def test_what_the_load_test_sends_wrongly_gets_the_status_that_it_is_judged_by(
    server: Server, room: Photo, kind: str
) -> None:
    [bad] = [one for one in bad_requests(room.jpeg) if one.name == kind]
    answer = server.http.post("/predictions/rooms", content=bad.body, headers=bad.headers)
    assert answer.status_code == bad.status, answer.text
    assert error_of(answer)


def test_more_bytes_than_allowed_are_413_before_they_are_all_sent(server: Server) -> None:
    pids = server.worker_pids("rooms")
    try:
        status = server.post(bytes(40_000_000)).status_code
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        status = 413  # it may close the connection while we still send
    assert status == 413
    assert server.http.get("/ping").json() == {"status": "Healthy"}
    assert server.worker_pids("rooms") == pids  # no worker was lost to it


def test_the_largest_photo_is_answered_and_the_worker_survives_it(server: Server) -> None:
    pids = server.worker_pids("rooms")
    labels = labels_of(server.post(uniform_png(8000, 8000), accept="application/x-npy"))
    assert labels.shape == (8000, 8000)
    assert server.worker_pids("rooms") == pids


def test_an_enormous_header_is_refused_without_its_memory(server: Server, shared_data: Path) -> None:
    pids = server.worker_pids("rooms")
    before = [begin_peak(pid) for pid in pids]
    answer = server.post((shared_data / "odd_images" / "bomb_header.png").read_bytes())
    assert (answer.status_code, error_of(answer)["type"]) == (413, "ImageTooLarge")
    grown = [peak_bytes(pid) - then for pid, then in zip(pids, before, strict=True)]
    assert max(grown) < 64e6, "a decoded bomb takes gigabytes"


def begin_peak(pid: int) -> int:
    """Forget what it held for earlier tests (proc_pid_clear_refs(5)). Returns: what it holds now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_bytes(pid)


def peak_bytes(pid: int) -> int:
    """The most memory that a process held since `begin_peak`."""
    line = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")
    )
    return 1024 * int(line.split()[1])


def test_odd_image_files_give_their_mask_or_a_reason(server: Server, shared_data: Path) -> None:
    folder = shared_data / "odd_images"
    pids = server.worker_pids("rooms")
    wrong = []
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        good = row["decodes"] == "yes" and int(row["width"]) * int(row["height"]) <= MAX_PIXELS
        answer = server.post(data, accept="application/x-npy")
        if good and (answer.status_code != 200 or labels_of(answer).shape != upright_shape(row)):
            wrong.append(f"{row['file']} ({row['kind']}): {answer.status_code}, {answer.text[:200]}")
        if not good and not (400 <= answer.status_code < 500 and error_of(answer)):
            wrong.append(f"{row['file']} ({row['kind']}): {answer.status_code}, but it cannot be decoded")
    assert wrong == []
    assert len(rows) > 90
    assert server.worker_pids("rooms") == pids


def upright_shape(row: Mapping[str, str]) -> tuple[int, int]:
    """(height, width). The index has sizes before EXIF orientation, but after that of a TIFF."""
    turned = re.search("orientation [5-8]", row["kind"]) and not row["file"].endswith(".tif")
    height, width = int(row["height"]), int(row["width"])
    return (width, height) if turned else (height, width)


def test_after_all_that_the_server_still_segments(server: Server, room: Photo) -> None:
    assert labels_of(server.post(room.jpeg)).shape == (room.height, room.width)
    assert not np.isnan(float(server.post(room.jpeg).headers["server-timing"].split("dur=")[1].split(",")[0]))
