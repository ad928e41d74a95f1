"""What a benchmark must reach: figures beside their limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Mark:
    """A figure and the limit that it must keep: at least `least`, at most `most`. `value` None: not measured."""

    name: str
    value: float | None
    least: float | None = None
    most: float | None = None

    @property
    def held(self) -> bool:
        """Whether it was measured and keeps its limits; a NaN keeps none."""
        if self.value is None or self.value != self.value:
            return False
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def words(self) -> str:
        """`held`, `missed` or `not measured`."""
        return "not measured" if self.value is None else "held" if self.held else "missed"

    def to_plain(self) -> dict[str, Any]:
        """The mark as JSON."""
        return {**asdict(self), "result": self.words}


def all_held(marks: Iterable[Mark]) -> bool:
    """Whether all of those that were measured are held, and at least one was measured."""
    measured = [mark for mark in marks if mark.value is not None]
    return bool(measured) and all(mark.held for mark in measured)


def table(marks: Iterable[Mark]) -> str:
    """The marks as a table."""
    lines = ["| mark | measured | must be | result |", "| --- | --- | --- | --- |"]
    for mark in marks:
        limits = [
            *([f"at least {mark.least:g}"] if mark.least is not None else []),
            *([f"at most {mark.most:g}"] if mark.most is not None else []),
        ]
        value = "" if mark.value is None else f"{mark.value:.3g}"
        lines.append(f"| {mark.name} | {value} | {', '.join(limits)} | {mark.words} |")
    return "\n".join(lines)
