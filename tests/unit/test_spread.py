"""A few of many: even, in order, and all where there are no more."""

from training.spread import spread


def test_spread_is_even_and_keeps_order() -> None:
    assert spread(range(20), 4) == [0, 5, 10, 15]
    assert spread("abcdefg", 3) == ["a", "c", "e"]


def test_all_are_taken_where_there_are_no_more() -> None:
    assert spread(range(3), 3) == spread(range(3), 99) == [0, 1, 2]
    assert spread([], 4) == spread(range(3), 0) == []
