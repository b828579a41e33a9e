"""Numbers out of /metrics: read from Prometheus' text as TorchServe writes it, compared between two looks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

import pytest

from deploy.metrics import Histogram, Scrape, parse, scrape
from segserve.errors import ServerError
from tests.serving_http import reply, serving

TEXT = textwrap.dedent(
    """\
    # HELP Requests5XX Torchserve prometheus counter metric with unit: count
    # TYPE Requests5XX counter
    Requests5XX{Level="Host",Hostname="vm",} 4.0
    # HELP segserve_answers_total Torchserve prometheus counter metric with unit: count
    # TYPE segserve_answers_total counter
    segserve_answers_total{model="rooms",version="1.0",status="200",Hostname="vm",} 7.0
    segserve_answers_total{model="rooms",version="1.0",status="400",Hostname="vm",} 2.0
    segserve_answers_total{model="rooms",version="2.0",status="200",Hostname="vm",} 1.0
    segserve_answers_total{model="other",version="1.0",status="500",Hostname="vm",} 9.0
    # HELP segserve_images_total Torchserve prometheus counter metric with unit: count
    # TYPE segserve_images_total counter
    segserve_images_total{model="rooms",version="1.0",device="cpu",Hostname="vm",} 5.0
    segserve_images_total{model="rooms",version="1.0",device="cuda-0",Hostname="vm",} 2.0
    # HELP segserve_class_share Torchserve prometheus gauge metric with unit: share
    # TYPE segserve_class_share gauge
    segserve_class_share{model="rooms",version="1.0",class="bed; double",Hostname="vm",} 9.8E-4
    segserve_class_share{model="rooms",version="2.0",class="bed; double",Hostname="vm",} 0.5
    # HELP segserve_step_seconds Torchserve prometheus histogram metric with unit: seconds
    # TYPE segserve_step_seconds histogram
    segserve_step_seconds_bucket{model="rooms",version="1.0",device="cpu",step="total",Hostname="vm",le="0.1",} 6.0
    segserve_step_seconds_bucket{model="rooms",version="1.0",device="cpu",step="total",Hostname="vm",le="0.25",} 8.0
    segserve_step_seconds_bucket{model="rooms",version="1.0",device="cpu",step="total",Hostname="vm",le="+Inf",} 8.0
    segserve_step_seconds_count{model="rooms",version="1.0",device="cpu",step="total",Hostname="vm",} 8.0
    segserve_step_seconds_sum{model="rooms",version="1.0",device="cpu",step="total",Hostname="vm",} 0.8
    segserve_step_seconds_bucket{model="rooms",version="1.0",device="cuda-0",step="total",Hostname="vm",le="0.1",} 0.0
    segserve_step_seconds_bucket{model="rooms",version="1.0",device="cuda-0",step="total",Hostname="vm",le="0.25",} 0.0
    segserve_step_seconds_bucket{model="rooms",version="1.0",device="cuda-0",step="total",Hostname="vm",le="+Inf",} 1.0
    segserve_step_seconds_count{model="rooms",version="1.0",device="cuda-0",step="total",Hostname="vm",} 1.0
    segserve_step_seconds_sum{model="rooms",version="1.0",device="cuda-0",step="total",Hostname="vm",} 12.0
    segserve_step_seconds_count{model="rooms",version="1.0",device="cpu",step="engine",Hostname="vm",} 3.0
    segserve_step_seconds_sum{model="rooms",version="1.0",device="cpu",step="engine",Hostname="vm",} 0.3
    """
)


@pytest.fixture(scope="module")
def looked() -> Scrape:
    return parse(TEXT)


def test_each_version_has_its_own_answers(looked: Scrape) -> None:
    assert looked.answers("rooms", "1.0") == {200: 7, 400: 2}
    assert looked.answers("rooms", "2.0") == {200: 1}
    assert looked.answers("rooms", "3.0") == {}
    assert looked.images("rooms", "1.0") == 7
    assert looked.server_errors() == 4  # although the parser calls it otherwise


def test_class_shares_of_a_version(looked: Scrape) -> None:
    assert looked.class_shares("rooms", "1.0") == {"bed; double": 0.00098}
    assert looked.class_shares("rooms", "3.0") == {}


def test_a_step_is_the_sum_of_all_devices(looked: Scrape) -> None:
    total = looked.steps("rooms", "1.0", "total")
    assert total == Histogram(9, 12.8, ((0.1, 6), (0.25, 8), (math.inf, 9)))
    assert looked.steps("rooms", "1.0", "engine").mean_s() == pytest.approx(0.1)
    assert looked.steps("rooms", "1.0", "queue") == Histogram()
    with pytest.raises(ValueError, match="no such step: wait; there are queue, decode"):
        looked.steps("rooms", "1.0", "wait")


def test_quantiles_lie_in_their_bucket() -> None:
    durations = Histogram(9, 12.8, ((0.1, 6), (0.25, 8), (math.inf, 9)))
    assert durations.quantile_s(0.5) == pytest.approx(0.075)  # the 4.5th of 6 that are spread over 0 to 0.1
    assert durations.quantile_s(7 / 9) == pytest.approx(0.175)
    assert durations.quantile_s(6 / 9) == pytest.approx(0.1)
    assert durations.quantile_s(0.99) == 0.25  # more is not known
    assert durations.mean_s() == pytest.approx(12.8 / 9)


def test_empty_buckets_in_front_are_passed_over() -> None:
    durations = Histogram(2, 0.4, ((0.1, 0), (0.25, 2), (math.inf, 2)))
    assert durations.quantile_s(0.0) == pytest.approx(0.1)
    assert durations.quantile_s(1.0) == pytest.approx(0.25)
    assert Histogram(1, 99, ((0.1, 0), (0.25, 0), (math.inf, 1))).quantile_s(0.5) == 0.25


def test_nothing_has_no_mean_and_no_quantile() -> None:
    assert math.isnan(Histogram().mean_s())
    assert math.isnan(Histogram().quantile_s(0.95))
    assert math.isnan(Histogram(0, 0, ((0.1, 0), (math.inf, 0))).quantile_s(0.95))


def test_what_came_between_two_looks() -> None:
    before = Histogram(9, 12.8, ((0.1, 6), (0.25, 8), (math.inf, 9)))
    after = Histogram(13, 13.2, ((0.1, 8), (0.25, 12), (math.inf, 13)))
    between = after.minus(before)
    assert (between.count, between.buckets) == (4, ((0.1, 2), (0.25, 4), (math.inf, 4)))
    assert between.mean_s() == pytest.approx(0.1)
    assert after.minus(Histogram()) == after
    assert Histogram(2, 0.1, ((0.1, 2),)).minus(before) == Histogram(2, 0.1, ((0.1, 2),))  # restarted


def test_the_metrics_of_a_server() -> None:
    with serving(lambda handler, _: reply(handler, TEXT.encode())) as url:
        assert scrape(url + "/").answers("rooms", "2.0") == {200: 1}


@pytest.mark.parametrize(("status", "body"), [(503, b"busy"), (200, b"<html>{not metrics</html>")])
def test_a_server_without_metrics_is_said_to_be_one(status: int, body: bytes) -> None:
    with (
        serving(lambda handler, _: reply(handler, body, status)) as url,
        pytest.raises(ServerError, match=r"no metrics from http://127\.0\.0\.1:\d+/metrics"),
    ):
        scrape(url)


def test_nobody_there_is_said_with_the_address(free_ports: Callable[[int], list[int]]) -> None:
    [port] = free_ports(1)
    with pytest.raises(ServerError, match=rf"127\.0\.0\.1:{port}/metrics.*refused"):
        scrape(f"http://127.0.0.1:{port}")
