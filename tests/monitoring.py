"""What the alarms and the dashboard ask Prometheus for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"
OF_PROMETHEUS_ITSELF = {"up"}


def dashboard_queries() -> list[str]:
    """The queries of grafana.json, with values for its variables."""
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    values = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}
    # label_replace's $1 is no variable
    return [re.sub(r"\$[a-z_]\w*", lambda found: values[found[0]], query) for query in queries]


def alarm_queries() -> list[str]:
    """The queries of alerts.yml, recorded ones too."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def metrics_of(queries: list[str]) -> set[str]:
    """Names that are selected by labels or over a time and come from the server, not from a recording rule."""
    names = {name for query in queries for name in re.findall(r"([a-zA-Z_:][\w:]*)\s*[{\[]", query)}
    return {name for name in names if ":" not in name} - OF_PROMETHEUS_ITSELF


def labels_of(queries: list[str], metric: str) -> set[str]:
    """Labels that the queries expect of a metric: in its braces, without those that Prometheus adds."""
    found = [pair for query in queries for pair in re.findall(rf"\b{metric}{{([^}}]*)}}", query)]
    names = {name for pairs in found for name in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", pairs)}
    return names - {"job", "instance"}
