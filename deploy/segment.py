"""Segment photos with the running server.

    python -m deploy.segment photo.jpg --out out/       # out/mask.png, out/overlay.jpg, out/result.json
    python -m deploy.segment *.jpg --out out/           # the same in out/NAME/ for each

mask.png is a palette image of class ids, overlay.jpg is for looking, result.json has the classes found with their
share and outline (COCO RLE). Exit code 0: all done; 1: a photo was refused, or got no answer after others did; 2: no
server, wrong options.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from deploy.client import Client, Refused
from deploy.retry import Retry
from deploy.run_folder import read_token
from segserve.cli import run
from segserve.errors import ServerError, UsageError

OUTPUTS = {"png": "mask.png", "overlay": "overlay.jpg", "json": "result.json"}


@dataclass(frozen=True)
class Config:
    """Which photos, where to, which server."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    out: Path
    """Folder for what comes back; made if it is not there."""
    url: str = "http://127.0.0.1:8080"
    """The inference API."""
    model: str = "rooms"
    """NAME, or NAME/VERSION."""
    token_file: Path | None = None
    """RUN/key_file.json of a server that runs with tokens."""
    ca_file: Path | None = None
    """PEM file of the CA that signed the server's certificate, if that is your own."""
    json: bool = False
    """Print the results as JSON instead of tables."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise UsageError("no photo given")
        if missing := [str(photo) for photo in self.photos if not photo.is_file()]:
            raise UsageError(f"no such file: {', '.join(missing)}")
        if len({photo.stem for photo in self.photos}) < len(self.photos):
            raise UsageError(
                "two photos have the same name; each gets a folder of its name, so segment them apart"
            )
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"--url {self.url}: expected http://HOST:PORT")


def main(config: Config) -> int:
    """Exit code: 0, or 1 if any photo was refused or got no answer. Raises: ServerError if the first one gets none."""
    token = read_token(config.token_file, "inference") if config.token_file else None
    results: list[dict[str, Any]] = []
    config.out.mkdir(parents=True, exist_ok=True)  # if that fails, it fails before the server has worked
    with ExitStack() as stack:
        connect = partial(Client, config.url, config.model, token, ca_file=config.ca_file)
        # where no server is, somebody at a terminal is told at once; one that has answered may go away for a moment
        client = stack.enter_context(connect(Retry(unreachable_s=0)))
        quiet = config.json or len(config.photos) == 1
        for photo in track(config.photos, "segmenting", console=Console(stderr=True), disable=quiet):
            folder = config.out if len(config.photos) == 1 else config.out / photo.stem
            try:
                results.append({"photo": str(photo), **segment(client, photo, folder)})
            except Refused as error:
                results.append({"photo": str(photo), "status": error.http_status, "error": str(error)})
            except ServerError as error:
                if not results:
                    raise
                results.append({"photo": str(photo), "error": str(error)})
            if len(results) == 1 < len(config.photos):
                client = stack.enter_context(connect(Retry()))
    if config.json:
        print(json.dumps(results, ensure_ascii=False))
    else:
        _print(results)
    return int(any("error" in result for result in results))


def segment(client: Client, photo: Path, folder: Path) -> dict[str, Any]:
    """Write the three files. Returns: the server's JSON without the outlines, and the files. Raises: see Client."""
    image = photo.read_bytes()
    with ThreadPoolExecutor(len(OUTPUTS)) as pool:  # at once, so that they share one call of the engine
        bodies = pool.map(lambda answer_format: client.segment(image, answer_format), OUTPUTS)
        answers = dict(zip(OUTPUTS, bodies, strict=True))
    result = _result(answers["json"])
    folder.mkdir(parents=True, exist_ok=True)
    for answer_format, name in OUTPUTS.items():
        (folder / name).write_bytes(answers[answer_format])
    return {**result, "files": [str(folder / name) for name in OUTPUTS.values()]}


def _result(body: bytes) -> dict[str, Any]:
    """The server's JSON without the outlines. Raises: ServerError for that of another server."""
    try:
        result: dict[str, Any] = json.loads(body)
        for found in result["classes"]:
            del found["rle"]
        missing = {"image", "model"} - result.keys()
    except (ValueError, KeyError, TypeError):
        missing = {"classes"}
    if missing:
        raise ServerError(
            f"the server's JSON has no {' and no '.join(sorted(missing))} as answers of segserve have: {body[:80]!r}; "
            "give --url of its inference API"
        )
    return result


def _print(results: Sequence[dict[str, Any]]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for result in results:
        if "error" in result:
            console.print(f"{result['photo']}: {result['error']}", style="red", markup=False)
            continue
        size, model = result["image"], result["model"]
        title = f"{result['photo']}  {size['width']} x {size['height']}  {model['name']} {model['version']}"
        table = Table("class", title=escape(title), title_justify="left")
        table.add_column("share", justify="right")
        table.add_column("pixels", justify="right")
        for found in sorted(result["classes"], key=lambda found: -int(found["pixels"])):
            table.add_row(escape(found["name"]), f"{found['fraction']:.1%}", f"{found['pixels']:,}")
        console.print(table)
        console.print(f"written: {', '.join(result['files'])}", markup=False)


if __name__ == "__main__":
    run(Config, main)
