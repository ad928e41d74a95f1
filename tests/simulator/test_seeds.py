"""Some seeds of each scenario are run at each change; benchmarks/simulate.py runs many."""

from __future__ import annotations

import pytest

from simulator.play import play
from simulator.scenarios import SCENARIOS

SOME = 4


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_seeds_of_each_scenario_keep_every_promise(name: str) -> None:
    """Rules 1 to 24, as far as docs/explanation/guarantees.md says that the simulator checks them."""
    for seed in range(SOME):
        result = play(SCENARIOS[name], seed)
        assert not result.broken, f"slicemq simulate {name} --seed {seed} --trace: {result.broken}: {result.how}"
        assert result.answered + sum(result.failed.values()) == result.frames


@pytest.mark.parametrize(("name", "seed"), [("rollouts", 1442), ("chaos", 14298), ("chaos", 13433)])
def test_seeds_that_once_broke_a_promise_keep_it(name: str, seed: int) -> None:
    """Rules 12, 24: while room is made, memory that drains is not given twice, what is told is stored; rule 17."""
    result = play(SCENARIOS[name], seed)
    assert not result.broken, f"slicemq simulate {name} --seed {seed} --trace: {result.broken}: {result.how}"


def test_runs_are_as_large_as_they_are_said_to_be() -> None:
    """At least 3 nodes, 30 frames and 5 faults; calm has no faults."""
    for name, scenario in SCENARIOS.items():
        result = play(scenario, 0)
        assert result.nodes >= 3
        assert result.frames >= 30
        assert name == "calm" or sum(result.faults.values()) >= 5
