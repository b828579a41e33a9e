"""Every odd file gets its mask at its upright size or an error of its own, alone and beside all the others."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segserve.image import MAX_PIXELS
from segserve.reply import Reply
from segserve.request import Request
from segserve.segmenter import Segmenter
from segserve.service import Service

STATUSES = {"bomb_header.png": 413, "bomb_real_144mp.png": 413, "bomb.bmp": 413, "bomb.gif": 413}
"""Of the files that are refused for more than being broken; the others are 400."""


@pytest.fixture(scope="module")
def index(shared_data: Path) -> dict[str, dict[str, str]]:
    """File name → its line in index.csv."""
    with (shared_data / "odd_images" / "index.csv").open() as file:
        return {line["file"]: line for line in csv.DictReader(file)}


@pytest.fixture
def service(colour_segmenter: Segmenter) -> Service:
    return Service(colour_segmenter, max_response_bytes=MAX_PIXELS + 4096)


def is_served(line: dict[str, str]) -> bool:
    return line["decodes"] == "yes" and int(line["width"]) * int(line["height"]) <= MAX_PIXELS


def upright_size(line: dict[str, str]) -> tuple[int, int]:
    """(width, height). The index has the sizes before EXIF orientation, except for TIFFs."""
    size = int(line["width"]), int(line["height"])
    turned = re.search(r"orientation [5-8]", line["kind"]) and not line["file"].endswith(".tif")
    return (size[1], size[0]) if turned else size


def check(reply: Reply, line: dict[str, str]) -> None:
    if is_served(line):
        assert (reply.status, reply.content_type) == (200, "image/png"), (line["file"], reply.body)
        mask = Image.open(io.BytesIO(reply.body))
        assert mask.size == upright_size(line), line["file"]
        assert set(np.unique(np.asarray(mask))) <= {0, 1, 2}
    else:
        assert reply.status == STATUSES.get(line["file"], 400), (line["file"], reply.body)
        assert reply.content_type == "application/json"
        assert json.loads(reply.body)["error"]["message"]


def test_the_index_covers_both_kinds(index: dict[str, dict[str, str]]) -> None:
    served = [is_served(line) for line in index.values()]
    assert served.count(True) > 60
    assert served.count(False) > 20


def test_odd_images_alone_and_in_batches(
    index: dict[str, dict[str, str]], service: Service, shared_data: Path
) -> None:
    requests = {name: Request({"body": (shared_data / "odd_images" / name).read_bytes()}) for name in index}
    alone: dict[str, Reply] = {}
    for name, request in requests.items():
        [alone[name]] = service.answer([request])
        check(alone[name], index[name])
    # every fifth, so that good and broken files share a batch
    for start in range(5):
        names = list(requests)[start::5]
        for name, reply in zip(names, service.answer([requests[name] for name in names]), strict=True):
            assert (reply.status, reply.body) == (alone[name].status, alone[name].body), name
