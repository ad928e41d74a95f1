"""Which subscriptions are confirmed, without a broker."""

from __future__ import annotations

import paho.mqtt.client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemq.subscriptions import ASK_AGAIN, GIVE_UP, Subscriptions, matches

LEVELS = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join)
FILTERS = st.builds(
    lambda levels, tail: "/".join([*levels, *tail]),
    st.lists(st.sampled_from(["a", "b", "+", ""]), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
)


@given(FILTERS, LEVELS)
def test_matches_as_paho_does(pattern: str, topic: str) -> None:
    assert matches(pattern, topic) == paho.mqtt.client.topic_matches_sub(pattern, topic)


def ask(subscriptions: Subscriptions, mid: int, now: float) -> list[str]:
    asked = [one for batch in subscriptions.due(now) for one, _ in batch]
    if asked:
        subscriptions.asked(mid, asked, now)
    return asked


def test_a_lost_suback_is_asked_for_again_and_then_given_up() -> None:
    wanted = Subscriptions()
    wanted.want(["a", "b"], 1)
    assert ask(wanted, 1, 0.0) == ["a", "b"]
    assert ask(wanted, 2, ASK_AGAIN / 2) == []
    assert wanted.next_time() == ASK_AGAIN
    wanted.acknowledged(1, [1])
    assert not wanted.confirmed()
    assert wanted.confirmed(["a"])
    assert ask(wanted, 2, ASK_AGAIN) == ["b"]
    assert wanted.overdue(GIVE_UP - 0.01) == []
    assert wanted.overdue(GIVE_UP) == ["b"]
    wanted.acknowledged(2, [1])
    assert wanted.confirmed()
    assert wanted.overdue(99.0) == []


def test_every_connection_starts_anew() -> None:
    wanted = Subscriptions()
    wanted.want(["a"], 1)
    ask(wanted, 1, 0.0)
    wanted.restart()
    assert wanted.acknowledged(1, [1]) == []
    assert not wanted.confirmed()
    assert ask(wanted, 1, 5.0) == ["a"]
    assert wanted.overdue(5.0) == []


def test_refusals_are_named() -> None:
    wanted = Subscriptions()
    wanted.want(["a", "b", "c"], 1)
    ask(wanted, 7, 0.0)
    assert wanted.acknowledged(7, [0, 0x80, 0x87]) == ["b", "c"]
    assert wanted.confirmed(["a"])


@pytest.mark.parametrize("codes", [[], [0], [0, 0, 0, 0]])
def test_a_suback_of_the_wrong_length_confirms_no_more_than_it_says(codes: list[int]) -> None:
    wanted = Subscriptions()
    wanted.want(["a", "b"], 1)
    ask(wanted, 1, 0.0)
    wanted.acknowledged(1, codes)
    assert wanted.confirmed() == (len(codes) >= 2)


def test_what_is_watched_only_is_not_heard() -> None:
    wanted = Subscriptions()
    wanted.want(["own"], 1, heard=False)
    assert not wanted.match("own")
    ask(wanted, 1, 0.0)
    wanted.acknowledged(1, [1])
    wanted.want(["own"], 1)
    assert wanted.match("own")
    assert ask(wanted, 2, 0.1) == ["own"], "the retained document has to come once more"


def test_forgotten_and_wanted_again_is_asked_for_again() -> None:
    wanted = Subscriptions()
    wanted.want(["a"], 0)
    ask(wanted, 1, 0.0)
    wanted.acknowledged(1, [0])
    wanted.forget(["a"])
    assert not wanted.match("a")
    assert wanted.acknowledged(1, [0]) == []
    wanted.want(["a"], 0)
    assert not wanted.confirmed()


def test_many_filters_go_in_batches() -> None:
    wanted = Subscriptions()
    wanted.want([f"t{number}" for number in range(120)], 1)
    assert [len(batch) for batch in wanted.due(0.0)] == [50, 50, 20]
