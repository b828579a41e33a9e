"""What the client tries again and how long it waits: with answers, a clock, sleeping and chance of the test's own."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable
from email.utils import formatdate

import httpx
import pytest

from deploy.client import AsyncClient, Refused
from deploy.retry import Budget, Retry, again, retry_after_s
from segserve.errors import ServerError, UsageError

OK = httpx.Response(200, headers={"Content-Type": "image/png"}, content=b"mask")
BUSY = httpx.Response(503, json={"code": 503, "message": "busy"})
DIED = httpx.Response(500, json={"code": 500, "type": "InternalServerException", "message": "Worker died."})
OURS_500 = httpx.Response(500, json={"error": {"type": "InternalError", "message": "an error of the server"}})


class World:
    """A server that answers as told, and time that passes only when somebody sleeps."""

    def __init__(self, answers: Iterable[httpx.Response | Exception], chance: float = 0.5) -> None:
        self._answers = iter(answers)
        self._chance = chance
        self.now = 1000.0
        self.slept: list[float] = []
        self.asked = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now += duration_s

    def segment(
        self, retry: Retry | None = None, timeout_s: float = 300.0, calls: int = 1, once: bool = False
    ) -> bytes:
        async def call() -> bytes:
            transport = httpx.MockTransport(self.answer)
            async with AsyncClient(
                "http://127.0.0.1:1", "rooms", retry=retry, transport=transport,
                clock=lambda: self.now, sleep=self.sleep, rand=lambda: self._chance,
            ) as client:  # fmt: skip
                bodies = [
                    await client.segment(b"photo", "png", timeout_s=timeout_s, once=once)
                    for _ in range(calls)
                ]
                return bodies[-1]

        return asyncio.run(call())


def forever(answer: httpx.Response | Exception) -> Iterable[httpx.Response | Exception]:
    while True:
        yield answer


REFUSED_CONNECTION = httpx.ConnectError("refused")


@pytest.mark.parametrize(
    "answer",
    [
        *(httpx.Response(status) for status in (429, 502, 503, 504, 507)),
        DIED,
        httpx.Response(507, json={"code": 507, "message": "Worker died."}),
        REFUSED_CONNECTION,
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed"),
        httpx.ConnectTimeout("slow"),
    ],
    ids=str,
)
def test_what_is_safe_is_tried_again(answer: httpx.Response | Exception) -> None:
    world = World([answer, answer, OK])
    assert world.segment() == b"mask"
    assert world.asked == 3


@pytest.mark.parametrize(
    "answer",
    [
        *(httpx.Response(status) for status in (400, 404, 406, 413, 415, 422, 501)),
        OURS_500,
        httpx.Response(500, content=b"Worker died."),
        httpx.Response(500, content=b'["Worker died."]'),
    ],
    ids=str,
)
def test_what_would_be_answered_the_same_is_not(answer: httpx.Response) -> None:
    world = World([answer])
    with pytest.raises(Refused) as raised:
        world.segment()
    assert raised.value.http_status == answer.status_code
    assert (world.asked, world.slept) == (1, [])


def test_waits_double_up_to_the_longest_and_are_random() -> None:
    policy = Retry(first_wait_s=0.1, longest_wait_s=2.0, budget_burst=100)
    world = World([*[BUSY] * 7, OK], chance=0.5)
    assert world.segment(policy) == b"mask"
    assert world.slept == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert [policy.short_wait_s(3, chance) for chance in (0.0, 0.25, 0.999)] == pytest.approx(
        [0, 0.1, 0.3996]
    )
    assert policy.short_wait_s(10_000, 1.0) == 2.0


def test_what_the_server_asks_to_wait_is_waited() -> None:
    policy = Retry(first_wait_s=0.1)
    world = World([httpx.Response(503, headers={"Retry-After": "7"}), OK])
    assert world.segment(policy) == b"mask"
    assert world.slept == pytest.approx([7.05])


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [("0", 0), ("120", 120), (" 3 ", 3), ("", 0), ("soon", 0), ("-5", 0), ("1.5", 0), ("²", 0),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 99 Oct 2015", 0)],
)  # fmt: skip
def test_how_retry_after_is_read(header: str, expected_s: float) -> None:
    answer = httpx.Response(503, headers=[(b"Retry-After", header.encode())])
    assert retry_after_s(answer) == expected_s


def test_retry_after_may_be_a_date() -> None:
    answer = httpx.Response(503, headers={"Retry-After": formatdate(time.time() + 100, usegmt=True)})
    assert 90 < retry_after_s(answer) <= 100
    assert retry_after_s(httpx.Response(503)) == 0


def test_no_wait_goes_beyond_the_deadline() -> None:
    asked_late = httpx.Response(503, headers={"Retry-After": "60"}, json={"message": "at noon"})
    world = World([asked_late])
    with pytest.raises(Refused, match="at noon"):
        world.segment(timeout_s=30)
    assert world.slept == []
    world = World(forever(BUSY))
    with pytest.raises(Refused, match="busy"):
        world.segment(timeout_s=30)
    assert 20 < world.now - 1000 < 30


def test_beyond_the_budget_a_call_goes_on_slowly_until_its_deadline() -> None:
    policy = Retry(first_wait_s=0.1, longest_wait_s=5.0, budget_burst=3)
    world = World([*[BUSY] * 12, OK])
    assert world.segment(policy) == b"mask"
    assert world.slept == pytest.approx([0.05, 0.1, 0.2, 5.0, 10.0, *[20.0] * 7])


def test_only_who_was_told_that_the_server_is_full_waits_ever_longer() -> None:
    """A server that restarts is asked again as soon as before: asking one that isn't there costs nothing."""
    policy = Retry(longest_wait_s=5.0, budget_burst=0, budget_share=0)
    world = World([*[REFUSED_CONNECTION] * 5, OK])
    assert world.segment(policy) == b"mask"
    assert world.slept == pytest.approx([5.0] * 5)
    assert [policy.long_wait_s(full, 0.0) for full in (0, 1, 2, 3, 10_000)] == [2.5, 2.5, 5.0, 10.0, 10.0]
    assert policy.long_wait_s(3, 0.999) < 30


def test_the_budget_is_a_share_of_the_calls_and_a_burst() -> None:
    policy = Retry(budget_share=0.25, budget_burst=4)
    budget = Budget(policy)
    assert [budget.take() for _ in range(6)] == [True] * 4 + [False] * 2
    for _ in range(8):
        budget.earn()
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(1000):
        budget.earn()
    assert sum(budget.take() for _ in range(100)) == 4


def test_over_a_bad_day_no_more_than_the_share_is_sent_soon() -> None:
    """Each call needs one retry: of 200 calls 40, and the burst, wait shortly."""
    policy = Retry(first_wait_s=0.1, longest_wait_s=5.0, budget_share=0.2, budget_burst=10)
    world = World([BUSY, OK] * 200)
    world.segment(policy, calls=200)
    assert world.asked == 400
    assert sum(duration_s < 1 for duration_s in world.slept) == pytest.approx(50, abs=1)


def test_no_server_is_put_up_with_for_a_while_only() -> None:
    world = World(forever(REFUSED_CONNECTION))
    with pytest.raises(
        ServerError, match=r"no server at http://127\.0\.0\.1:1 \(refused\); start one: make serve"
    ):
        world.segment(Retry(unreachable_s=60))
    assert 60 <= world.now - 1000 < 70
    world = World([REFUSED_CONNECTION])
    with pytest.raises(ServerError):
        world.segment(Retry(unreachable_s=0))
    assert world.asked == 1
    # an answer in between, even a refusal, starts it anew
    world = World([*(REFUSED_CONNECTION if n % 2 else BUSY for n in range(20)), OK])
    assert world.segment(Retry(unreachable_s=8)) == b"mask"


@pytest.mark.parametrize("answer", [BUSY, DIED, REFUSED_CONNECTION, httpx.ReadError("reset")], ids=str)
def test_who_asks_once_is_told_at_once(answer: httpx.Response | Exception) -> None:
    world = World([answer])
    with pytest.raises((Refused, ServerError)):
        world.segment(once=True)
    assert (world.asked, world.slept) == (1, [])


def test_a_certificate_that_does_not_pass_is_told_at_once() -> None:
    tls = ssl.SSLCertVerificationError(1, "certificate verify failed")
    tls.verify_code, tls.verify_message = 18, "self-signed"
    refused, lower = httpx.ConnectError("certificate verify failed"), httpx.ConnectError("of a lower layer")
    refused.__cause__, lower.__context__ = lower, tls
    world = World([refused])
    with pytest.raises(ServerError, match=r"does not pass: self-signed; .*ca_file="):
        world.segment()
    assert (world.asked, world.slept) == (1, [])


@pytest.mark.parametrize(
    "wrong",
    [{"first_wait_s": 0}, {"first_wait_s": 6.0}, {"budget_share": -1}, {"budget_burst": -1}, {"unreachable_s": -1},
     {"answer_s": 0}],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Retry(**wrong)


def test_bodies_of_any_kind_are_looked_at_calmly() -> None:
    for body in (
        b"",
        b"\xff",
        b"null",
        b"3",
        b"[]",
        b"{}",
        b'{"message": null}',
        b'{"message": ["Worker died."]}',
    ):
        assert not again(httpx.Response(500, content=body))
