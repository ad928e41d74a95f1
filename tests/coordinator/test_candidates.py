"""Which nodes of a large cluster a plan is made on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.candidates import chosen_nodes, limited
from slicemq.messages import Capacity, Link
from tests.coordinator.site import capacity


def board(number: int, speed: float = 1.0, memory: int = 10**8, rate: float = 1e6) -> Capacity:
    return replace(
        capacity(f"pi-{number}", "e"), speeds={"conv": speed}, memory=memory, link=Link(rate, rate, 0.001)
    )


def names(nodes: list[Capacity]) -> list[str]:
    return [node.node for node in nodes]


def test_all_are_taken_where_they_are_few() -> None:
    nodes = [board(n) for n in range(5)]
    assert chosen_nodes(nodes, 5) == nodes


def test_the_fastest_the_roomiest_and_the_best_linked_are_among_them() -> None:
    nodes = [board(n) for n in range(50)]
    nodes[17], nodes[31], nodes[44] = board(17, speed=9.0), board(31, memory=10**9), board(44, rate=1e8)
    assert names(chosen_nodes(nodes, 3)) == ["pi-17", "pi-31", "pi-44"]


def test_those_that_are_spoken_of_are_always_there_and_busy_ones_come_last() -> None:
    nodes = [board(n, speed=50.0 - n) for n in range(50)]
    assert "pi-49" in names(chosen_nodes(nodes, 3, named={"pi-49", "unknown"}))
    assert "pi-0" not in names(chosen_nodes(nodes, 3, busy={"pi-0"}))
    assert len(chosen_nodes(nodes, 2, named={f"pi-{n}" for n in range(7)})) == 7


@given(
    speeds=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=40),
    most=st.integers(1, 40),
    named=st.sets(st.integers(0, 39)),
)
def test_in_their_own_order_and_as_many_as_there_may_be(speeds: list[float], most: int, named: set[int]) -> None:
    nodes = [board(n, speed) for n, speed in enumerate(speeds)]
    wanted = {f"pi-{n}" for n in named}
    found = chosen_nodes(nodes, most, wanted)
    assert names(found) == [name for name in names(nodes) if name in set(names(found))]
    assert len(found) == min(len(nodes), max(most, len(wanted & set(names(nodes))))) or len(nodes) <= most
    assert found == chosen_nodes(nodes, most, wanted)


@pytest.mark.parametrize("reason", ["", "one node is enough"])
def test_a_plan_says_what_its_bound_does_not_speak_of(reason: str) -> None:
    text = limited(reason, 100, 1000)
    assert text.startswith(reason)
    assert "100 of 1000 nodes" in text
