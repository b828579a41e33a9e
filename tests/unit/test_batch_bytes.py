"""Which replies a batch is sent without."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segserve.batch_bytes import MAX_COPIED_BYTES, do_not_fit

MB = 1_000_000


def test_alone_any_size_fits() -> None:
    assert do_not_fit([]) == set()
    assert do_not_fit([64 * MB]) == set()


def test_a_large_one_fits_beside_small_ones() -> None:
    assert do_not_fit([100_000] * 4 + [64 * MB] + [100_000] * 3) == set()


def test_every_reply_has_a_share_that_its_neighbours_cannot_take() -> None:
    assert do_not_fit([4 * MB] * 8) == set()
    assert do_not_fit([64 * MB] * 4 + [4 * MB] * 4).isdisjoint(range(4, 8))


def test_of_too_many_large_ones_some_are_sent() -> None:
    assert len(do_not_fit([12 * MB] * 8)) == 5  # the fourth would make it 13 GB


@given(st.lists(st.integers(0, 70 * MB), max_size=12))
def test_what_is_sent_is_copied_for_seconds_at_most(sizes: list[int]) -> None:
    left_out = do_not_fit(sizes)
    sent = [size for position, size in enumerate(sizes) if position not in left_out]
    copied = sum(size * sum(sent[:position]) / 65_536 for position, size in enumerate(sent))
    assert copied <= MAX_COPIED_BYTES + len(sizes)
    assert all(sizes[position] >= max(sent, default=0) for position in left_out)
