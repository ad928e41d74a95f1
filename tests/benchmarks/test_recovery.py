"""benchmarks.recovery: its steps follow from documents, its marks from its samples."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.recovery_steps import KINDS, Row, Sample, steps, tables
from benchmarks.watch import Seen
from slicemq.messages import (
    Artifact,
    Assignment,
    PipelineDocument,
    Report,
    Route,
    SliceAssignment,
    SliceReport,
    Stamp,
)

OLD, NEW = "1-00000000", "2-00000000"
KIND = {kind.name: kind for kind in KINDS}
STAMP = Stamp(1, "a" * 16, 1)


def document(**routes: str) -> PipelineDocument:
    named = {"old": OLD, "new": NEW}
    words: dict[str, Any] = routes
    rows = tuple(Route(named[name], state, 1.0, (), 1) for name, state in words.items())
    state: Any = "running" if "active" in routes.values() else "paused"
    return PipelineDocument("p", STAMP, state, "", "ab" * 32, "x", (), (), rows)


def report(node: str, state: Any, revision: str = NEW) -> Report:
    return Report(node, "e", 1, (SliceReport("p", revision, "s0", state),))


def assignment(revision: str) -> Assignment:
    item = SliceAssignment("p", revision, "s0", Artifact("ab" * 32, 5), 1, (), (), ())
    return Assignment("n1", STAMP, (item,))


def test_the_steps_of_a_recovery() -> None:
    seen = [
        Seen(9.0, assignment(NEW)),
        Seen(10.1, document(old="lost")),
        Seen(10.2, assignment(NEW)),
        Seen(10.3, assignment(NEW)),
        Seen(10.4, report("n1", "loading")),
        Seen(10.5, report("n1", "ready")),
        Seen(10.55, report("n3", "ready", OLD)),
        Seen(10.6, report("n2", "ready")),
        Seen(10.65, report("n1", "ready")),
        Seen(10.7, document(new="active")),
        Seen(10.8, assignment(NEW)),
        Seen(10.9, document(new="active")),
    ]
    found = steps(seen, 10.0, OLD, NEW)
    expected = {"lost": 0.1, "assigned": 0.3, "ready": 0.6, "flipped": 0.7}
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


def test_the_marks() -> None:
    def held(name: str, *seconds: float, usual: float | None = None) -> list[bool]:
        return [mark.held for mark in Row(KIND[name], [Sample(one, usual=usual) for one in seconds]).marks()]

    assert held("death-warm", 0.4, 0.5, 0.9) == [True, True]
    assert held("death-warm", 0.4, 0.6, 1.1) == [False, False]
    assert held("silent", 1.9, 2.0) == [True]
    assert held("silent", 1.9, 2.1) == [False]
    assert held("death-cold", 9.0) == []
    assert held("coordinator", 0.1, 0.1, usual=0.1) == [True, True]
    assert held("coordinator", 0.1, 0.1, 1.0, usual=0.1) == [True, False]
    assert held("coordinator", 1.0, 1.0, usual=0.1) == [False, False]


def test_the_tables_show_where_the_time_went() -> None:
    rows = [
        Row(KIND["death-warm"], [Sample(0.5, {"lost": 0.1, "flipped": 0.45, "result": 0.5}, prepared=True)]),
        Row(KIND["coordinator"], [Sample(0.03, usual=0.04)]),
    ]
    text = tables(rows)
    assert "| 0.50 s | 0.50 s | 1 | 1 | nothing |" in text
    assert "| 0.10 |  |  | 0.45 | 0.50 |" in text
    assert "0.04 s (median)" in text
