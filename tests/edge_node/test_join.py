"""Joining and bounded waiting (protocol rules 2 and 9)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.join import Backlog, Bounds, Joiner

WIDE = Bounds(count=100, nbytes=10_000, age=100.0)


def test_one_input_needs_no_joining() -> None:
    joiner: Joiner[int, str] = Joiner(["b0"], WIDE)
    assert joiner.add(1, "b0", "x", 5, 0.0) == {"b0": "x"}
    assert len(joiner) == 0


def test_a_frame_is_whole_when_its_last_bundle_has_come_in_any_order() -> None:
    joiner: Joiner[int, str] = Joiner(["b0", "b1", "b2"], WIDE)
    assert joiner.add(1, "b2", "c", 1, 0.0) is None
    assert joiner.add(2, "b0", "other", 1, 0.0) is None
    assert joiner.add(1, "b0", "a", 1, 0.0) is None
    assert joiner.add(1, "b1", "b", 1, 0.0) == {"b0": "a", "b1": "b", "b2": "c"}
    assert len(joiner) == 1


def test_a_repeat_replaces_and_does_not_complete() -> None:
    joiner: Joiner[int, str] = Joiner(["b0", "b1"], Bounds(10, 10, 10.0))
    for text in "xyz":
        assert joiner.add(1, "b0", text, 8, 0.0) is None
    assert joiner.add(1, "b1", "w", 8, 0.0) == {"b0": "z", "b1": "w"}
    assert joiner.dropped == 0


def test_half_joined_frames_are_bounded_by_count_bytes_and_age_oldest_first() -> None:
    by_count: Joiner[int, int] = Joiner(["b0", "b1"], Bounds(2, 10_000, 100.0))
    by_bytes: Joiner[int, int] = Joiner(["b0", "b1"], Bounds(100, 25, 100.0))
    by_age: Joiner[int, int] = Joiner(["b0", "b1"], Bounds(100, 10_000, 5.0))
    for joiner in (by_count, by_bytes, by_age):
        for key in range(3):
            joiner.add(key, "b0", key, 10, 3.0 * key)
        assert joiner.dropped == 1
        assert joiner.add(0, "b1", 0, 1, 6.0) is None, "the oldest was given up"
        assert joiner.add(2, "b1", 0, 1, 6.0) is not None
    by_age.expire(100.0)
    assert len(by_age) == 0


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["b0", "b1", "b2"]), st.integers(0, 50)), max_size=200)
)
def test_joiner_never_holds_more_than_its_bounds(events: list[tuple[int, str, int]]) -> None:
    bounds = Bounds(count=4, nbytes=120, age=20.0)
    joiner: Joiner[int, int] = Joiner(["b0", "b1", "b2"], bounds)
    begun, whole = set(), 0
    for now, (key, name, nbytes) in enumerate(events):
        begun.add(key)
        items = joiner.add(key, name, nbytes, nbytes, float(now))
        if items is not None:
            whole += 1
            assert sorted(items) == ["b0", "b1", "b2"]
        held = list(joiner._halves.values())
        assert len(held) <= bounds.count
        assert joiner._nbytes == sum(half.nbytes for half in held) <= bounds.nbytes
        assert all(now - half.since <= bounds.age for half in held)
    if not whole and not joiner.dropped:
        assert len(joiner) == len(begun)


def test_backlog_is_first_in_first_out_and_tells_the_oldest() -> None:
    backlog: Backlog[str] = Backlog(WIDE)
    assert backlog.pop(0.0) is None
    assert backlog.since() is None
    backlog.push("a", 1, 1.0)
    backlog.push("b", 1, 2.0)
    assert backlog.since() == 1.0
    assert backlog.pop(3.0) == (1.0, "a")
    assert backlog.pop(3.0) == (2.0, "b")


def test_a_frame_larger_than_the_bound_still_passes() -> None:
    backlog: Backlog[str] = Backlog(Bounds(4, 10, 100.0))
    backlog.push("small", 5, 0.0)
    backlog.push("huge", 500, 0.0)
    assert backlog.dropped == 1
    assert backlog.pop(0.0) == (0.0, "huge")


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 3)), max_size=100))
def test_backlog_keeps_the_newest_and_counts_the_rest(events: list[tuple[int, float]]) -> None:
    bounds = Bounds(count=5, nbytes=100, age=10.0)
    backlog: Backlog[int] = Backlog(bounds)
    now = 0.0
    for number, (nbytes, passed) in enumerate(events):
        now += passed
        backlog.push(number, nbytes, now)
        assert 1 <= len(backlog) <= bounds.count
    left = []
    while (popped := backlog.pop(now)) is not None:
        assert now - popped[0] <= bounds.age
        left.append(popped[1])
    assert left == list(range(len(events) - len(left), len(events)))
    assert backlog.dropped == len(events) - len(left)
