"""Where the server listens, and who can reach that."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import server
from deploy.addresses import address, is_loopback
from deploy.options import Start
from segserve.errors import UsageError


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


def test_inference_and_metrics_need_a_port_each(tmp_path: Path) -> None:
    options = Start(tmp_path, port=8090, metrics_port=8090, run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="both 8090"):
        server._launch(options)  # start() would take over the signals of the test runner
    assert not (tmp_path / "run").exists()
