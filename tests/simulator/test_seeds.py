"""Seeds that are run at each change: some of each scenario, and those that have found something."""

from __future__ import annotations

import pytest

from simulator.play import play
from simulator.scenarios import SCENARIOS

# What each one found is told by the test of the core that was mended, which the comment names.
FOUND = {
    "deploys": (
        # tests/coordinator/test_cluster.py: a newer deploy and one that is abandoned meanwhile.
        108,
    ),
    "chaos": (
        # A plan that nodes came for while it was made.
        142,
        160,
        # Rule 13: what returns beside the draining revision whose place was to be taken.
        175,
        619,
        # An accepted deploy for which there was no room while nothing served.
        217,
    ),
}
SOME = 15


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_seeds_of_each_scenario_keep_every_promise(name: str) -> None:
    """Rules 1 to 24, as far as docs/explanation/guarantees.md says that the simulator checks them."""
    for seed in (*range(SOME), *FOUND.get(name, ())):
        result = play(SCENARIOS[name], seed)
        assert not result.broken, f"slicemq simulate {name} --seed {seed} --trace: {result.broken}: {result.how}"
        assert result.answered + sum(result.failed.values()) == result.frames


def test_runs_are_as_large_as_they_are_said_to_be() -> None:
    """At least 3 nodes, 30 frames and 5 faults; calm has no faults."""
    for name, scenario in SCENARIOS.items():
        for seed in range(2):
            result = play(scenario, seed)
            assert result.nodes >= 3
            assert result.frames >= 30
            assert name == "calm" or sum(result.faults.values()) >= 5
