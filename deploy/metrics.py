"""What /metrics of a server says, as numbers to compare: answers by status, durations of steps, class shares.

before = scrape(running.metrics_url)
...
after = scrape(running.metrics_url)
total = after.steps("rooms", "2.0", "total").minus(before.steps("rooms", "2.0", "total"))
total.count, total.mean_s(), total.quantile_s(0.95)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from deploy.addresses import reachable
from segserve.errors import ServerError

TIMEOUT_S = 10.0
STEPS = ("queue", "decode", "engine", "mask", "encode", "batch_wait", "total")
"""The values of the label `step`; see metrics.yaml."""


@dataclass(frozen=True)
class Histogram:
    """Durations of a step. `buckets`: upper bound in seconds → how many took no longer; the last bound is infinite."""

    count: float = 0.0
    sum_s: float = 0.0
    buckets: tuple[tuple[float, float], ...] = ()

    def minus(self, other: Histogram) -> Histogram:
        """What came since `other`, which was scraped earlier. After a restart in between: what came since that."""
        if other.count > self.count:
            return self
        before = dict(other.buckets)
        buckets = tuple((bound_s, count - before.get(bound_s, 0.0)) for bound_s, count in self.buckets)
        return Histogram(self.count - other.count, self.sum_s - other.sum_s, buckets)

    def mean_s(self) -> float:
        """Exact; NaN if there is nothing."""
        return self.sum_s / self.count if self.count else math.nan

    def quantile_s(self, q: float) -> float:
        """q in 0..1. Exact to a bucket: in between, even spread is taken for granted, as Prometheus does.

        Beyond the last finite bound it is that bound, which is then too little; NaN if there is nothing.
        """
        rank, lower_s, below = q * self.count, 0.0, 0.0
        for bound_s, count in self.buckets:
            if count >= rank and count > below:
                if math.isinf(bound_s):
                    return lower_s
                return lower_s + (bound_s - lower_s) * (rank - below) / (count - below)
            if not math.isinf(bound_s):
                lower_s, below = bound_s, count
        return math.nan


@dataclass(frozen=True)
class Scrape:
    """All samples of one look at /metrics. What was not there yet counts as nothing: 0, empty."""

    samples: tuple[Sample, ...]

    def answers(self, model: str, version: str) -> dict[int, float]:
        """HTTP status → how many answers of the workers had it. TorchServe's own errors are not here: server_errors."""
        found: dict[int, float] = {}
        for sample in self._of("segserve_answers_total", model, version):
            status = int(sample.labels["status"])
            found[status] = found.get(status, 0.0) + sample.value
        return found

    def steps(self, model: str, version: str, step: str) -> Histogram:
        """Of one of STEPS, on all devices. Raises: ValueError for another step."""
        if step not in STEPS:
            raise ValueError(f"no such step: {step}; there are {', '.join(STEPS)}")
        by_suffix = {
            suffix: [
                sample
                for sample in self._of(f"segserve_step_seconds_{suffix}", model, version)
                if sample.labels["step"] == step
            ]
            for suffix in ("count", "sum", "bucket")
        }
        buckets: dict[float, float] = {}
        for sample in by_suffix["bucket"]:
            bound_s = float(sample.labels["le"])
            buckets[bound_s] = buckets.get(bound_s, 0.0) + sample.value
        return Histogram(_sum(by_suffix["count"]), _sum(by_suffix["sum"]), tuple(sorted(buckets.items())))

    def class_shares(self, model: str, version: str) -> dict[str, float]:
        """Class → its mean share, 0..1, in the last 100 or so answers; empty before the first.

        Names have `;` for a comma, `-` for a colon and `/` for a bar: TorchServe cannot carry these.
        """
        return {
            sample.labels["class"]: sample.value
            for sample in self._of("segserve_class_share", model, version)
        }

    def images(self, model: str, version: str) -> float:
        """Photos that were segmented."""
        return _sum(self._of("segserve_images_total", model, version))

    def server_errors(self) -> float:
        """All 5xx of the server, TorchServe's own too: queue full, a worker that died with the request."""
        # the parser gives every counter this ending; TorchServe and Prometheus itself say Requests5XX
        return _sum(sample for sample in self.samples if sample.name == "Requests5XX_total")

    def _of(self, name: str, model: str, version: str) -> Iterable[Sample]:
        wanted: Mapping[str, str] = {"model": model, "version": version}
        return [
            sample
            for sample in self.samples
            if sample.name == name and all(sample.labels.get(key) == text for key, text in wanted.items())
        ]


def parse(text: str) -> Scrape:
    """From Prometheus' text format. Raises: ValueError."""
    families = text_string_to_metric_families(text)
    return Scrape(tuple(sample for family in families for sample in family.samples))


def scrape(metrics_url: str) -> Scrape:
    """metrics_url: address of the metrics API (`Running.metrics_url`), without the path. Raises: ServerError."""
    url = f"{reachable(metrics_url).rstrip('/')}/metrics"
    try:
        answer = httpx.get(url, timeout=TIMEOUT_S, trust_env=False)
        answer.raise_for_status()
        return parse(answer.text)
    except (httpx.HTTPError, ValueError) as error:
        raise ServerError(
            f"no metrics from {url}: {error or type(error).__name__}; is the server running, and is this its "
            "metrics address (`python -m deploy.status`)?"
        ) from None


def _sum(samples: Iterable[Sample]) -> float:
    return math.fsum(sample.value for sample in samples)
