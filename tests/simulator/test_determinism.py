"""A seed is a run: the same events in the same order, in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.play import play
from simulator.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]


def trace(scenario: str, seed: int, hash_seed: str) -> str:
    """The trace of a run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "simulate", scenario, "--seed", str(seed), "--trace"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return done.stdout


@pytest.mark.parametrize(("scenario", "seed"), [("chaos", 3), pytest.param("rollouts", 11, marks=pytest.mark.slow)])
def test_a_seed_gives_the_same_trace_in_every_process(scenario: str, seed: int) -> None:
    first, second = trace(scenario, seed, "1"), trace(scenario, seed, "2")
    assert first == second
    assert "FAULT" in first


def test_documents_as_json_change_nothing() -> None:
    """What the cores say survives the wire: a run with JSON is the run with objects."""
    for seed in range(2):
        plain, coded = (play(SCENARIOS["chaos"], seed, json=json) for json in (False, True))
        assert plain == coded


def test_another_seed_is_another_run() -> None:
    seen = {play(SCENARIOS["failover"], seed).seconds for seed in range(4)}
    assert len(seen) > 1
