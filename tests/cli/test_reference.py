"""The reference of the commands is what the commands say."""

from __future__ import annotations

from pathlib import Path

from coordinator.cli.app import _VERBS
from coordinator.cli.reference import lines

_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def test_the_page_is_made_from_the_verbs() -> None:
    assert _PAGE.read_text().splitlines() == list(lines()), "run: python -m coordinator.cli.reference"


def test_every_verb_has_its_section() -> None:
    text = _PAGE.read_text()
    for words in _VERBS:
        assert f"## slicemq {' '.join(words)}\n" in text
