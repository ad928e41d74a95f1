"""Turns: each is served once, evenly spread, and the period is the least that whole turns allow."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planner.shapes.turns import Counts, assign, count_turns, interleave

SECONDS = st.floats(0.001, 1.0)
STAGES = st.lists(st.lists(SECONDS, min_size=1, max_size=3), min_size=1, max_size=3)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any))
def test_every_turn_is_taken_once_and_as_evenly_as_whole_turns_can_be(counts: list[int]) -> None:
    taken = interleave(counts)
    total = sum(counts)
    assert sorted(turn for turns in taken for turn in turns) == list(range(total))
    assert [len(turns) for turns in taken] == counts
    for turns, count in zip(taken, counts, strict=True):
        for before in range(total + 1):
            had = sum(1 for turn in turns if turn < before)
            fair = Fraction(count * before, total)
            assert math.floor(fair) <= had <= math.ceil(fair)


@settings(max_examples=60)
@given(st.lists(STAGES, min_size=1, max_size=4), st.integers(1, 20))
def test_lanes_and_their_nodes_share_one_cycle(lanes: list[list[list[float]]], most: int) -> None:
    counts = count_turns(lanes, most=most)
    assert 1 <= counts.turns <= most
    served = assign(counts)
    everywhere = []
    for lane, stages in zip(served, lanes, strict=True):
        of_lane = {turn for turns in lane[0] for turn in turns}
        everywhere += sorted(of_lane)
        for stage, seconds in zip(lane, stages, strict=True):
            turns = sorted(turn for own in stage for turn in own)
            assert turns == sorted(of_lane), "each stage of a lane serves each of its turns once"
            for own, each in zip(stage, seconds, strict=True):
                assert len(own) * each / counts.turns <= counts.period * (1 + 1e-12)
    assert sorted(everywhere) == list(range(counts.turns))


def compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [(total,)]
    return [(k, *rest) for k in range(total + 1) for rest in compositions(total - k, parts - 1)]


def best_of_stage(seconds: list[float], count: int) -> float:
    return min(
        max(t * c for t, c in zip(split, seconds, strict=True)) for split in compositions(count, len(seconds))
    )


def by_force(lanes: list[list[list[float]]], relayed: list[float], rate: float | None, most: int) -> float:
    best = math.inf
    for turns in range(1, most + 1):
        for split in compositions(turns, len(lanes)):
            nodes = max(
                best_of_stage(stage, count) for lane, count in zip(lanes, split, strict=True) for stage in lane
            )
            broker = sum(t * b for t, b in zip(split, relayed, strict=True)) / rate if rate else 0.0
            best = min(best, max(nodes, broker) / turns)
    return best


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_period_is_the_least_of_all_counts(data: st.DataObject) -> None:
    lanes = data.draw(st.lists(STAGES, min_size=1, max_size=3))
    relayed = data.draw(st.lists(st.floats(1.0, 9.0), min_size=len(lanes), max_size=len(lanes)))
    rate = data.draw(st.one_of(st.none(), st.floats(2.0, 2000.0)))
    found = count_turns(lanes, relayed, rate, most=5)
    assert found.period == pytest.approx(by_force(lanes, relayed, rate, 5), rel=1e-9)


def test_proportional_shares_and_the_shortest_cycle() -> None:
    assert count_turns([[[0.1]], [[0.2]]]) == Counts(3, (2, 1), (((2,),), ((1,),)), 0.2 / 3)
    assert count_turns([[[0.1, 0.2, 0.2]]]).nodes == (((2, 1, 1),),)
    assert interleave((2, 1, 1)) == ((0, 2), (1,), (3,)) or interleave((2, 1, 1)) == ((0, 2), (3,), (1,))
    exact = count_turns([[[0.1]], [[0.1304]]])
    near = count_turns([[[0.1]], [[0.1304]]], within=0.02)
    assert near.turns < exact.turns
    assert exact.period <= near.period <= exact.period * 1.02


def test_a_node_that_only_delays_gets_no_turn() -> None:
    assert count_turns([[[0.01]], [[1.0]]]).lanes == (1, 0)


def test_the_broker_moves_turns_to_lanes_of_few_bytes() -> None:
    lanes = [[[0.1]], [[0.1]]]
    without = count_turns(lanes, [100.0, 1.0], None)
    with_broker = count_turns(lanes, [100.0, 1.0], 500.0)
    assert without.lanes == (1, 1)
    first, second = with_broker.lanes
    assert second > first
    least = max(second * 0.1, (100 * first + second) / 500.0) / with_broker.turns
    assert with_broker.period == pytest.approx(least)
    for a, b in itertools.product(range(20), repeat=2):
        if a + b:
            assert with_broker.period <= max(0.1 * a, 0.1 * b, (100 * a + b) / 500) / (a + b) + 1e-12


def in_fractions(lanes: list[list[list[float]]], most: int) -> list[tuple[tuple[int, ...], Fraction]]:
    """For each number of turns the counts of the lanes and the period: the greedy rule, word by word."""

    def need(lane: list[list[float]], count: int) -> Fraction:
        return max(least_of_stage(stage, count) for stage in lane)

    def least_of_stage(stage: list[float], count: int) -> Fraction:
        seconds = [Fraction(each) for each in stage]
        taken = [0] * len(stage)
        for _ in range(count):
            taken[min(range(len(stage)), key=lambda k: ((taken[k] + 1) * seconds[k], k))] += 1
        return max(n * each for n, each in zip(taken, seconds, strict=True))

    counts, found = [0] * len(lanes), []
    for turns in range(1, most + 1):
        counts[min(range(len(lanes)), key=lambda lane: (need(lanes[lane], counts[lane] + 1), lane))] += 1
        period = max(need(lane, count) for lane, count in zip(lanes, counts, strict=True)) / turns
        found.append((tuple(counts), period))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(STAGES, min_size=1, max_size=4), st.integers(1, 12), st.sampled_from([0.0, 0.02]))
def test_counts_are_those_of_exact_fractions(lanes: list[list[list[float]]], most: int, within: float) -> None:
    lanes = [*lanes, lanes[0]]
    table = in_fractions(lanes, most)
    least = min(period for _, period in table)
    turns = next(number for number, (_, p) in enumerate(table, 1) if p <= least * (1 + Fraction(within)))
    found = count_turns(lanes, most=most, within=within)
    assert (found.turns, found.lanes, found.period) == (turns, table[turns - 1][0], float(table[turns - 1][1]))
