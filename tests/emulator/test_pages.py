"""The reference pages of the emulator name every field and every event, and how-to names every shipped scenario."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from emulator import scenario
from emulator.energy import EnergyModel
from emulator.event_kinds import EVENTS
from emulator.library import shipped

_DOCS = Path(__file__).parents[2] / "docs"
_PAGE = (_DOCS / "reference" / "scenario-file.md").read_text(encoding="utf-8")
_KINDS = (
    *(scenario.Scenario, scenario.BrokerPart, scenario.NodeType, scenario.ClientPart, scenario.LinksPart),
    *(scenario.Deployment, scenario.Load, scenario.Event, scenario.Run, scenario.Sweep, EnergyModel),
)


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: str(kind.__name__))
def test_every_field_of_a_scenario_is_on_the_page(kind: Any) -> None:
    names = [one.name for one in dataclasses.fields(kind) if "read" in one.metadata]
    assert names
    assert [name for name in names if not re.search(rf"`(\[+)?(run\.)?{name}(\]+)?`", _PAGE)] == []


def test_every_event_is_on_the_page() -> None:
    assert [what for what in EVENTS if f"`{what}`" not in _PAGE] == []


def test_every_scenario_that_ships_is_in_the_how_to() -> None:
    page = (_DOCS / "how-to" / "emulate.md").read_text(encoding="utf-8")
    assert [one.name for one in shipped() if f"`{one.name}`" not in page] == []
