"""The pool of payload memory: nothing is lent twice while a view of it lives, and what is kept is bounded."""

from __future__ import annotations

import gc
import threading
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicemq import buffers
from slicemq.buffers import BufferPool

MEGABYTE = 1_000_000


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


def test_a_buffer_is_used_again_when_the_last_view_is_gone() -> None:
    pool = BufferPool()
    view = pool.take(MEGABYTE)
    where = address(view)
    array = np.frombuffer(view[16:], np.float32, count=100)
    part = array[50:60].reshape(2, 5)
    del view, array
    assert pool.free == (0, 0)
    assert address(pool.take(MEGABYTE)) != where
    del part
    assert where in {address(one) for one in [pool.take(MEGABYTE), pool.take(MEGABYTE)]}


def test_payloads_start_at_a_page() -> None:
    pool = BufferPool()
    views = [pool.take(size) for size in (1, 5000, 70_000, MEGABYTE, 3_200_001)]
    assert all(address(view) % 4096 == 0 for view in views)
    assert [len(view) for view in views] == [1, 5000, 70_000, MEGABYTE, 3_200_001]
    assert all(view.format == "B" and not view.readonly for view in views)


def test_what_is_kept_is_bounded_and_the_rest_goes_back() -> None:
    pool = BufferPool(keep_buffers=4, keep_bytes=10 * MEGABYTE)
    views = [pool.take(MEGABYTE) for _ in range(50)]
    views.clear()
    assert pool.free[0] == 4
    views = [pool.take(4 * MEGABYTE) for _ in range(6)]
    views.clear()
    assert pool.free[0] <= 4
    assert pool.free[1] <= 10 * MEGABYTE


def test_a_small_payload_does_not_hold_a_large_buffer() -> None:
    pool = BufferPool()
    large = pool.take(10 * MEGABYTE)
    where = address(large)
    del large
    assert address(pool.take(20_000)) != where
    assert address(pool.take(9 * MEGABYTE)) == where


def test_what_nobody_uses_goes_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BufferPool()
    first, second = pool.take(MEGABYTE), pool.take(MEGABYTE)
    del first, second
    pool.trim()
    assert pool.free[0] == 2
    monkeypatch.setattr(buffers, "KEEP_SECONDS", 0.0)
    pool.trim()
    assert pool.free == (0, 0)


def test_no_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="no memory for"):
        BufferPool().take(1 << 60)


def test_views_in_a_cycle_come_back_with_the_garbage_collector() -> None:
    pool = BufferPool()
    cycle: list[object] = [pool.take(MEGABYTE)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert pool.free[0] == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("tvadc"), st.integers(0, 1 << 30)), max_size=80))
def test_no_buffer_is_lent_while_a_view_lives(steps: list[tuple[str, int]]) -> None:
    """Each loan is filled with its own number; every view that lives must still show it."""
    pool = BufferPool(keep_buffers=3, keep_bytes=200_000)
    held: list[tuple[int, object]] = []
    for number, (what, draw) in enumerate(steps, 1):
        mark = number % 251 + 1
        if what == "t" or not held:
            view = pool.take(1 + draw % 60_000)
            np.frombuffer(view, np.uint8)[:] = mark
            held.append((mark, view))
            continue
        kept, thing = held[draw % len(held)]
        if what == "v":
            held.append((kept, memoryview(thing)[len(memoryview(thing)) // 2 :]))  # type: ignore[arg-type]
        elif what == "a":
            held.append((kept, np.frombuffer(memoryview(thing), np.uint8)))  # type: ignore[arg-type]
        elif what == "d":
            del held[draw % len(held)]
        else:
            held.append((kept, memoryview(thing).toreadonly()))  # type: ignore[arg-type]
        del thing
        for expected, one in held:
            assert set(bytes(memoryview(one))) <= {expected}  # type: ignore[arg-type]
        assert pool.free[0] <= 3


def test_a_buffer_that_is_lent_again_while_it_is_given_back_comes_back_again() -> None:
    pool = BufferPool()
    views = [pool.take(20_000)]

    class Busy(deque[Any]):
        """Another thread takes what has come back before the one that gave it back goes on."""

        def append(self, one: Any) -> None:
            super().append(one)
            if not views:
                views.append(pool.take(20_000))

    pool._back = Busy()
    del views[0]
    assert len(views) == 1
    assert pool.free == (0, 0)
    gc.collect()
    pool._back = deque()
    views.clear()
    assert pool.free[0] == 1


def test_many_threads_never_share_a_buffer() -> None:
    pool = BufferPool(keep_buffers=2)
    wrong: list[int] = []

    def work(mark: int) -> None:
        for turn in range(400):
            view = pool.take(20_000 + turn)
            array = np.frombuffer(view, np.uint8)
            array[:] = mark
            del view
            if not (array == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 7)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []
    assert pool.free[0] <= 2
