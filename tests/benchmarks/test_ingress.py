"""How the benchmark of the ingress judges: a message that is missing, and one that came twice."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.ingress import Heard, judge, table

EXPECTED = {0: "a", 1: "b", 2: "c"}


def test_what_is_counted() -> None:
    heard = [Heard(0, 0, "a"), Heard(1, 0, "b"), Heard(1, 1, "b"), Heard(0, 1, "a"), Heard(2, 2, "c")]
    found = judge(heard, EXPECTED, 2, 1.0)
    assert (found.answered, found.missing, found.repeats, found.most_repeats) == (3, 0, 2, 2)
    assert (found.errors, found.different, found.disordered) == (0, 0, 0)
    assert found.held
    assert "| answers that came again | 2 |" in table(found)


def test_what_is_not_held() -> None:
    right = [Heard(0, 0, "a"), Heard(1, 0, "b"), Heard(2, 0, "c")]
    assert not judge(right[:2], EXPECTED, 0, 1.0).held
    assert not judge([*right[:2], Heard(2, 0, "")], EXPECTED, 0, 1.0).held
    assert not judge([replace(right[0], digest="x"), *right[1:]], EXPECTED, 0, 1.0).held
    assert judge([right[1], right[0], right[2]], EXPECTED, 0, 1.0).disordered == 1
