"""What a caller of the client may do, and what it is told: every error is one of the three that it names."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import zipfile
from collections.abc import AsyncGenerator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy import segment
from deploy.client import AsyncClient, Client
from deploy.client_wheel import build
from deploy.retry import Retry
from segserve.errors import ServerError, UsageError
from tests.serving_http import reply, serving


@pytest.mark.parametrize("image", [bytearray(b"photo"), memoryview(b"photo")])
def test_a_photo_may_be_any_bytes(image: Any) -> None:
    with serving(reply) as url, Client(url, "rooms") as client:
        assert client.segment(image, "png") == b"photo"


@pytest.mark.parametrize("answer_format", ["jpeg", "image/png", ""])
def test_a_format_that_does_not_exist_is_told_with_those_that_do(answer_format: str) -> None:
    told = pytest.raises(UsageError, match="expected one of png, json, npy, overlay")
    with serving(reply) as url, Client(url, "rooms") as client, told:
        client.segment(b"photo", answer_format)


@pytest.mark.parametrize("token", ["tökén", "two\nlines", "blank "])
def test_a_token_that_cannot_be_one_is_told(token: str) -> None:
    with pytest.raises(UsageError, match="the token has characters that no token has"):
        Client("http://127.0.0.1:1", "rooms", token)


@pytest.mark.parametrize("model", ["two\nlines", "rooms?x=1", "rooms/1.0/x", "\udcff", ""])
def test_a_model_that_cannot_be_one_is_told(model: str) -> None:
    with pytest.raises(UsageError, match=r"model '.*': expected NAME or NAME/VERSION"):
        Client("http://127.0.0.1:1", model)


def test_classes_as_one_text_are_no_list_of_letters() -> None:
    told = pytest.raises(UsageError, match=r"expected a list of names, as classes=\['floor', 'wall'\]")
    with serving(reply) as url, Client(url, "rooms") as client, told:
        client.segment(b"photo", "json", classes="floor,wall")


def test_classes_go_with_the_photo_in_a_form() -> None:
    with serving(reply) as url, Client(url, "rooms") as client:
        form = client.segment(b"photo", "json", classes=["floor", "wall, painted"])
    assert b'name="classes"\r\n\r\nfloor,wall, painted\r\n' in form
    assert b'name="data"' in form
    assert b"\r\n\r\nphoto\r\n" in form


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content_Type": "text/html; charset=utf-8"}, "answered with text/html, expected application/x-npy"),
        ({"Content_Type": ""}, "answered with no Content-Type, expected application/x-npy"),
        ({"Content_Encoding": "gzip"}, r"the answer of .* can't be unpacked: .*; does a proxy change it\?"),
    ],
    ids=["login", "no type", "no gzip"],
)
def test_what_another_server_answers_is_no_mask_and_it_is_asked_once(
    headers: dict[str, str], said: str
) -> None:
    asked = []

    def stranger(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked.append(body)
        reply(handler, b"<html>please log in</html>", 200, **headers)

    told = pytest.raises(ServerError, match=said)
    with serving(stranger) as url, Client(url, "rooms") as client, told:
        client.segment(b"photo", "npy")
    assert asked == [b"photo"]


def test_closing_again_does_nothing_and_a_closed_client_says_so() -> None:
    with serving(reply) as url, Client(url, "rooms") as client:
        client.close()
        client.close()
        with pytest.raises(UsageError, match="this client is closed"):
            client.segment(b"photo", "png")


def test_closing_the_async_client_again_does_nothing_and_it_says_so_too() -> None:
    async def ask(url: str) -> bytes:
        async with AsyncClient(url, "rooms") as client:
            await client.aclose()
            await client.aclose()
            return await client.segment(b"photo", "png")

    with serving(reply) as url, pytest.raises(UsageError, match="this client is closed"):
        asyncio.run(ask(url))


@pytest.mark.parametrize("is_held", [False, True], ids=["forgotten", "held"])
def test_closing_leaves_no_task_that_asyncio_complains_of(
    is_held: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that breaks off leaves readers open: a task closes each once nobody, not even its error, holds it."""

    async def break_off() -> None:
        async def reader() -> AsyncGenerator[int, None]:
            try:
                yield 1
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                closed.append(True)

        opened = reader()
        await anext(opened)
        if is_held:
            held.append(opened)

    held: list[AsyncGenerator[int, None]] = []
    closed: list[bool] = []
    client = Client("http://127.0.0.1:1", "rooms")
    asyncio.run_coroutine_threadsafe(break_off(), client._thread.loop).result()
    client.close()
    gc.collect()
    assert closed == [True]
    assert "Task was destroyed" not in caplog.text


def test_the_error_of_a_with_is_not_hidden_by_closing() -> None:
    def work() -> None:
        with Client("http://127.0.0.1:1", "rooms") as client:
            client.close()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()


def test_the_async_client_takes_the_same() -> None:
    async def ask(url: str) -> bytes:
        async with AsyncClient(url, "rooms/2.0") as client:
            return await client.segment(bytearray(b"photo"), "png", classes=["floor"])

    with serving(reply) as url:
        assert b'name="classes"\r\n\r\nfloor\r\n' in asyncio.run(ask(url))


def test_a_connection_that_breaks_ends_no_run_of_many_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photo 1 is answered; 2 is too, after a connection broke; 3 never; 4 is."""
    asked: dict[bytes, int] = {}

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked[body] = asked.get(body, 0) + 1
        if body == b"3" or (body == b"2" and asked[body] <= 1):
            handler.close_connection = True
            return
        result = {
            "image": {"width": 1, "height": 1},
            "model": {"name": "rooms", "version": "1"},
            "classes": [],
        }
        reply(handler, json.dumps(result).encode(), Content_Type=handler.headers["Accept"])

    monkeypatch.setattr(
        segment, "Retry", lambda **kept: Retry(first_wait_s=0.01, **kept or {"unreachable_s": 2.0})
    )
    photos = tuple(tmp_path / f"{name}.jpg" for name in "1234")
    for photo in photos:
        photo.write_bytes(photo.stem.encode())
    with serving(answer) as url:
        code = segment.main(segment.Config(photos, tmp_path / "out", url, json=True))
    results = json.loads(capsys.readouterr().out)
    assert [Path(one["photo"]).stem for one in results] == ["1", "2", "3", "4"]
    assert [one["photo"] for one in results if "error" in one] == [str(photos[2])]
    assert code == 1
    assert asked[b"3"] > 3, "it was tried again"


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"classes": 1}', b'{"classes": [], "image": {}}'])
def test_the_json_of_something_else_ends_the_command_in_a_sentence(tmp_path: Path, body: bytes) -> None:
    photo = tmp_path / "1.jpg"
    photo.write_bytes(b"1")
    told = pytest.raises(ServerError, match=r"JSON has no (classes|model) as answers of segserve have")
    with serving(lambda handler, _: reply(handler, body)) as url, told:
        segment.main(segment.Config((photo,), tmp_path / "out", url))
    assert list((tmp_path / "out").iterdir()) == []


def test_where_no_server_is_nothing_is_tried_again(tmp_path: Path) -> None:
    asked = []

    def hang_up(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked.append(body)
        handler.close_connection = True

    for name in "12":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    photos = (tmp_path / "1.jpg", tmp_path / "2.jpg")
    with serving(hang_up) as url, pytest.raises(ServerError, match="did not answer"):
        segment.main(segment.Config(photos, tmp_path / "out", url))
    assert set(asked) == {b"1"}


def test_the_wheel_has_the_client_and_nothing_else(tmp_path: Path) -> None:
    """Unpacked beside httpx alone it works: no numpy, no torch, none of the rest of this repository."""
    wheel = build(tmp_path / "wheels")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        modules = sorted(name for name in archive.namelist() if name.endswith(".py"))
    paths = [str(tmp_path / "site"), str(Path(httpx.__file__).parents[1])]
    code = (
        f"import sys; sys.path[:0] = {paths!r}; from deploy.client import AsyncClient, Client; import deploy;"
        "print(deploy.__file__, *{'numpy', 'torch', 'tyro', 'PIL'} & sys.modules.keys());"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith(('deploy', 'segserve'))))"
    )
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={})
    [where, loaded] = done.stdout.splitlines() or [done.stderr, ""]
    assert where == str(tmp_path / "site/deploy/__init__.py")
    assert modules == sorted(str(Path(file).relative_to(tmp_path / "site")) for file in loaded.split(" "))
    assert "deploy/client.py" in modules
