"""Ports for servers of tests and measurements, which several processes look for at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ports
from benchmarks.ports import LOWEST, SHARE, free_ports, load_processes


@pytest.mark.parametrize("mine", [0, 1, 2])
def test_processes_that_share_never_get_the_same(
    mine: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SHARE, f"{mine}/3")
    (tmp_path / "range").write_text("32768\t60999\n")
    monkeypatch.setattr(ports, "OUTGOING", tmp_path / "range")
    found = free_ports(50)
    assert len(set(found)) == 50
    assert {port % 3 for port in found} == {mine}
    assert min(found) >= LOWEST - 3


def test_loads_of_several_processes_have_a_port_each() -> None:
    """Their masters would share Locust's usual one, and with it the workers of both."""
    first, second = (load_processes(2) for _ in range(2))
    assert first[:2] == ["--processes", "2"]
    assert first[first.index("--master-port") + 1] == first[first.index("--master-bind-port") + 1]
    assert first[-1] != second[-1]
