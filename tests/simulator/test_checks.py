"""The simulator finds what is wrong: cores that were broken on purpose do not pass."""

from __future__ import annotations

from typing import Any

import pytest

import coordinator.jobs
from coordinator.gate import Evidence, Verdict
from edge_node.agent import Agent
from simulator.models import compute
from simulator.play import Result, play
from simulator.scenarios import SCENARIOS
from slicemq.comparison import Comparison
from slicemq.ledger import Ledger


def broken(scenario: str, invariant: str, seeds: int = 40) -> Result:
    """The first run of `scenario` that breaks `invariant`; fails when none does."""
    for seed in range(seeds):
        result = play(SCENARIOS[scenario], seed)
        if result.broken == invariant:
            return result
    pytest.fail(f"no run broke {invariant}")


def test_flip_without_a_probe_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 11: a prober that is content too early."""

    def content(self: Any, probe: Any, turn: int) -> None:
        self._carry_out(self.cluster.on_probed(self.process.clock.now, probe.pipeline, probe.revision))

    monkeypatch.setattr("simulator.coordinator.Coordinator._send_probe", content)
    broken("failover", "PROBED")


def test_client_that_does_not_send_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 8."""
    monkeypatch.setattr(Ledger, "connected", lambda self, now: [])
    assert broken("failover", "ANSWERED").how


def test_client_that_forgets_which_frames_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5: frames leave the ledger in order."""
    original = Ledger._deliver

    def deliver(self: Ledger) -> list[Any]:
        if self._ended and self._deliver_next not in self._ended:
            self._deliver_next = next(iter(self._ended))
        return original(self)

    monkeypatch.setattr(Ledger, "_deliver", deliver)
    broken("failover", "ONCE")


def test_mixture_of_revisions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 3: a slice that computes for another revision than its own."""

    def mixed(artifact: str, revision: str, values: dict[int, Any]) -> dict[int, Any]:
        return compute(artifact, "1-00000000" if revision.startswith("2-") else revision, values)

    monkeypatch.setattr("simulator.worker.compute", mixed)
    broken("failover", "RIGHT")


def test_number_that_is_used_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1."""
    original = coordinator.jobs.Jobs.prepare

    def prepare(self: Any, record: Any, *values: Any, **more: Any) -> None:
        record.highest = min(record.highest, 1)
        original(self, record, *values, **more)

    monkeypatch.setattr(coordinator.jobs.Jobs, "prepare", prepare)
    broken("deploys", "NUMBERS")


def test_node_that_does_not_wait_for_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 12."""
    monkeypatch.setattr(Agent, "_has_room", lambda self, wanted: True)
    broken("deploys", "MEMORY", seeds=120)


def test_gate_that_is_content_with_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evidence, "judge", lambda self, policy, seconds: Verdict("pass", "all is well"))
    broken("rollouts", "GATED")


@pytest.mark.slow
def test_canary_whose_errors_end_frames_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5."""
    monkeypatch.setattr(Comparison, "has_heavier", lambda self, revision: False)
    broken("rollouts", "GATED", seeds=120)


def test_core_that_raises_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, now: float) -> list[Any]:
        raise KeyError("nothing")

    monkeypatch.setattr(Ledger, "tick", fails)
    assert broken("failover", "SOUND").how == "KeyError: 'nothing'"
