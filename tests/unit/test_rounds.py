from __future__ import annotations

from lakeward.rounds import Rest


def test_who_failed_rests_twice_as_long_each_time_and_others_do_not() -> None:
    now = 0.0
    rest = Rest(lambda: now)
    waits = []
    for _ in range(8):
        rest.note("shop/broken", failed=True)
        began = now
        while not rest.is_over("shop/broken"):
            assert rest.is_over("shop/good")
            now += 1
        waits.append(now - began)
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600]


def test_a_success_ends_the_rest() -> None:
    rest = Rest(lambda: 0.0)
    rest.note("shop/items", failed=True)
    rest.note("shop/items", failed=False)
    assert rest.is_over("shop/items")
    rest.note("shop/items", failed=True)
    assert not rest.is_over("shop/items")
