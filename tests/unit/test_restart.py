"""What `deploy.server start` writes down of a start, by then waited for: Java, its logs and its answers are made up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy import served, server
from deploy.management import Management
from deploy.options import Start
from deploy.run_folder import Running
from deploy.served import Served, Wanted
from tests.fake_management import FakeManagement, running_in

BEFORE = Served("2.0", {"1.0": "rooms.mar", "2.0": "rooms-2.0"}, kept="1.0")


class Mute:
    """Signals are the test runner's here."""

    def arm(self) -> None: ...

    def disarm(self) -> None: ...


@pytest.mark.parametrize(
    ("without", "after"),
    [(("rooms=rooms.mar",), BEFORE), ((), Served("2.0", {"2.0": "rooms-2.0"}))],
    ids=["a spare version did not load", "--models named one version"],
)
def test_a_version_that_did_not_load_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: tuple[str, ...], after: Served
) -> None:
    running, there = running_in(tmp_path), FakeManagement({"2.0": "rooms-2.0"})
    served.save(Path(running.run_dir), {"rooms": BEFORE})

    def launched(_: Start) -> tuple[Wanted, Running, subprocess.Popen[bytes] | None, None]:
        return Wanted(()), running, None, None

    monkeypatch.setattr(server, "_launch", launched)
    monkeypatch.setattr(server, "wait_ready", lambda *_: without)
    monkeypatch.setattr(server, "Interrupts", Mute)
    monkeypatch.setattr(Management, "of", lambda _: there)
    assert server.start(Start(tmp_path, run_dir=Path(running.run_dir), detach=True)) == 0
    assert served.load(Path(running.run_dir)) == {"rooms": after}
