"""What a check of a plan says: one line for each thing that was looked at (PURE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Word = Literal["proved", "solver-asserted", "failed", "not checked"]


@dataclass(frozen=True)
class Check:
    """One thing that a plan says. `proved`: it is so by exact arithmetic on the numbers of the costs file."""

    name: str
    word: Word
    text: str


@dataclass(frozen=True)
class Report:
    """All checks, in order."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """What the plan says and is not so."""
        return tuple(check for check in self.checks if check.word == "failed")

    def to_plain(self) -> dict[str, Any]:
        """The report as dicts and lists."""
        words: dict[str, int] = {}
        for check in self.checks:
            words[check.word] = words.get(check.word, 0) + 1
        return {
            "failed": bool(self.failed),
            "counts": words,
            "checks": [{"name": c.name, "result": c.word, "text": c.text} for c in self.checks],
        }
