"""The alarms, by Prometheus' own tool, and the dashboard: whole, and its queries are ones that Prometheus understands.

That every metric they name is there is tested against a real server: tests/e2e/test_monitoring.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring import FOLDER, dashboard_queries


@pytest.fixture(scope="module")
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("needs promtool, of Prometheus (Debian: apt install prometheus)")
    return path


def checked(*command: str | Path) -> str:
    result = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_every_alarm_comes_when_it_should_and_only_then(promtool: str) -> None:
    assert "SUCCESS" in checked(promtool, "test", "rules", "alerts_test.yml")


def test_the_tests_of_the_alarms_can_fail(promtool: str, tmp_path: Path) -> None:
    rules = (FOLDER / "alerts.yml").read_text()
    spoilt = rules.replace("clamp_min(4 *", "clamp_min(4000 *")
    assert spoilt != rules
    (tmp_path / "alerts.yml").write_text(spoilt)
    shutil.copy(FOLDER / "alerts_test.yml", tmp_path)
    command = [promtool, "test", "rules", str(tmp_path / "alerts_test.yml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode != 0
    assert "SegserveClassShareUnusual" in result.stdout + result.stderr


def test_the_example_for_prometheus_is_one_that_it_takes(promtool: str) -> None:
    assert "rules found" in checked(promtool, "check", "config", "prometheus.yml")


def test_prometheus_understands_the_queries_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"q{number}", "expr": query} for number, query in enumerate(dashboard_queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in checked(promtool, "check", "rules", file)


def test_every_alarm_is_tested_and_says_what_to_do() -> None:
    tested = (FOLDER / "alerts_test.yml").read_text()
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    alarms = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert len(alarms) >= 8
    for alarm in alarms:
        assert alarm["alert"] in tested
        assert alarm["labels"]["severity"] in ("page", "ticket")
        assert set(alarm["annotations"]) == {"summary", "action"}


def test_the_dashboard_can_be_imported() -> None:
    dashboard = json.loads((FOLDER / "grafana.json").read_text())
    assert dashboard["title"] == "segserve"
    assert dashboard["schemaVersion"] >= 36
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == [
        "datasource",
        "instance",
        "model",
    ]
    panels: list[dict[str, Any]] = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}"  # of whoever imports it
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]  # no panel lies on another
        taken |= cells
