"""The planner against brute force on random small problems: a part of `benchmarks.planner_exactness`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.planner_exactness import KINDS, State, compare, main, problem


def test_a_few_hundred_problems() -> None:
    state = State(seed=1_000_000)
    for seed in range(state.seed, state.seed + 240):
        compare(seed, state)
    assert state.differences == []
    assert all(kind.problems == 30 for kind in state.kinds.values())
    assert all(0 < kind.without_plan < kind.problems for kind in state.kinds.values())


def test_memory_binds_in_every_second_problem() -> None:
    assert sum(problem(seed)[1] for seed in range(160)) == 80
    assert {problem(seed)[0] for seed in range(16)} == set(KINDS)


def test_it_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "state.json"
    printed = []
    for count in ("16", "32"):
        monkeypatch.setattr("sys.argv", ["x", "--count", count, "--resume", str(kept)])
        assert main() == 0
        printed.append(capsys.readouterr().out)
    assert "16 problems, 0 differ" in printed[0]
    assert "32 problems, 0 differ" in printed[1]


@pytest.mark.slow
def test_thousands_of_problems() -> None:
    state = State(seed=2_000_000)
    for seed in range(state.seed, state.seed + 6000):
        compare(seed, state)
    assert state.differences == []
