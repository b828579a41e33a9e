"""Where the server listens, and who can reach that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from deploy import launch, server
from deploy.addresses import address, is_loopback
from deploy.metrics import scrape
from deploy.options import Start
from segserve.errors import UsageError
from tests.fake_management import running_in


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False),
     ("localhost.example.org", False), ("some-host", False)],
)  # fmt: skip
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_address_comes_from_the_options_then_from_the_configuration() -> None:
    properties = {"inference_address": "http://127.0.0.1:8080"}
    assert address(properties, "inference_address", None, None) == ("127.0.0.1", 8080)
    assert address(properties, "inference_address", "0.0.0.0", 81) == ("0.0.0.0", 81)
    with pytest.raises(UsageError, match="IPv4"):
        address(properties, "inference_address", "::1", None)
    with pytest.raises(UsageError, match="metrics_address="):
        address(properties, "metrics_address", None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        "127.0.0.1:8080",
        "http://127.0.0.1",
        "http://127.0.0.1:808O",
        "http://127.0.0.1:80800",
        "https://a:1",
        "http://[::1",
    ],
)
def test_an_address_in_the_configuration_that_is_none_is_told(wrong: str) -> None:
    with pytest.raises(
        UsageError, match=r"^metrics_address=.* in the configuration; expected http://HOST:PORT"
    ):
        address({"metrics_address": wrong}, "metrics_address", None, None)


def test_metrics_listen_where_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_ports: Callable[[int], list[int]]
) -> None:
    plans: list[launch.Plan] = []

    def launched(plan: launch.Plan) -> tuple[None, None]:
        plans.append(plan)
        return None, None

    monkeypatch.setattr(launch, "launch", launched)
    (tmp_path / "rooms").mkdir()
    port, metrics_port = free_ports(2)
    models, run_dir = ("rooms=rooms",), tmp_path / "run"
    for host in (None, "0.0.0.0"):
        server._launch(Start(tmp_path, models, None, port, metrics_port, metrics_host=host, run_dir=run_dir))
    assert [plan.metrics for plan in plans] == [("127.0.0.1", metrics_port), ("0.0.0.0", metrics_port)]
    assert [plan.auth for plan in plans] == ["none", "none"]  # tokens are not asked for there
    with pytest.raises(UsageError, match="--metrics-host ::1: TorchServe takes an IPv4"):
        server._launch(Start(tmp_path, models, metrics_host="::1", run_dir=run_dir))


@pytest.mark.parametrize(("host", "open_to_others"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_metrics_that_others_reach_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, open_to_others: bool
) -> None:
    running = dataclasses.replace(running_in(tmp_path), metrics_url=f"http://{host}:8082")
    server._print_ready(running, {"rooms": "1.0"})
    told = "http://0.0.0.0:8082/metrics asks nobody for a token" in capsys.readouterr().err
    assert told is open_to_others


def test_metrics_on_all_addresses_are_asked_for_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(url: str, **_: object) -> httpx.Response:
        asked.append(url)
        return httpx.Response(200, text="", request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    assert scrape("http://0.0.0.0:8082").samples == ()
    assert asked == ["http://127.0.0.1:8082/metrics"]


def test_inference_and_metrics_need_a_port_each(tmp_path: Path) -> None:
    options = Start(tmp_path, port=8090, metrics_port=8090, run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="both 8090"):
        server._launch(options)  # start() would take over the signals of the test runner
    assert not (tmp_path / "run").exists()
