"""docs/explanation/guarantees.md names every rule, fault and invariant, and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simulator.checks import Invariant
from simulator.faults import MEANS, Fault

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "guarantees.md").read_text()


@pytest.mark.parametrize("rule", range(1, 26))
def test_each_rule_is_built_and_pinned_somewhere(rule: int) -> None:
    row = re.search(rf"^\| {rule} \| .+$", PAGE, re.MULTILINE)
    assert row is not None
    _, _, _, built, pinned, _, _ = row[0].split("|")
    assert "tests/" in pinned
    for name in re.findall(r"`([^`]+)`", built + pinned):
        assert (ROOT / name).is_file(), name


def test_every_fault_and_invariant_is_on_the_page() -> None:
    assert set(MEANS) == set(Fault)
    for fault, means in MEANS.items():
        assert f"| `{fault.value}` | {means} |" in PAGE
    for invariant in Invariant:
        assert f"| {invariant.name} | {invariant.value} |" in PAGE
