"""What many runs come to. PURE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from simulator.faults import Fault
from simulator.play import Result

_KEPT = 20


@dataclass
class Tally:
    """Counts over runs; `settled` are seconds from the last fault to rest, in a histogram of whole seconds."""

    runs: int = 0
    frames: int = 0
    answered: int = 0
    revisions: int = 0
    least: dict[str, int] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    settled: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    first: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count a run."""
        self.runs += 1
        self.frames += result.frames
        self.answered += result.answered
        self.revisions += result.revisions
        faults = sum(result.faults[kind.value] for kind in Fault if kind.value in result.faults)
        for name, value in (("nodes", result.nodes), ("frames", result.frames), ("faults", faults)):
            self.least[name] = min(self.least.get(name, value), value)
        self.failed.update(result.failed)
        self.faults.update(result.faults)
        self.settled[int(result.settled)] += 1
        if result.broken:
            self.broken[result.broken] += 1
            if len(self.first) < _KEPT:
                self.first.append(
                    {
                        "scenario": result.scenario,
                        "seed": result.seed,
                        "invariant": result.broken,
                        "how": result.how,
                        "again": again(result),
                    }
                )

    def merge(self, other: Tally) -> None:
        """Count all that another one counted."""
        self.runs += other.runs
        self.frames += other.frames
        self.answered += other.answered
        self.revisions += other.revisions
        for name, value in other.least.items():
            self.least[name] = min(self.least.get(name, value), value)
        self.failed.update(other.failed)
        self.faults.update(other.faults)
        self.settled.update(other.settled)
        self.broken.update(other.broken)
        self.first = [*self.first, *other.first][:_KEPT]

    def to_plain(self) -> dict[str, Any]:
        """In JSON's terms."""
        plain = dict(vars(self))
        for name in ("failed", "faults", "broken"):
            plain[name] = dict(sorted(plain[name].items()))
        plain["settled"] = {str(seconds): count for seconds, count in sorted(self.settled.items())}
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Tally:
        """What `to_plain` gave."""
        made = cls(**plain)
        made.failed, made.faults, made.broken = Counter(made.failed), Counter(made.faults), Counter(made.broken)
        made.settled = Counter({int(seconds): count for seconds, count in plain["settled"].items()})
        return made

    def settled_within(self, share: float) -> int:
        """Whole seconds within which this share of the runs came to rest after the last fault."""
        left = share * self.runs
        for seconds, count in sorted(self.settled.items()):
            left -= count
            if left <= 0:
                return seconds + 1
        return 0


def again(result: Result) -> str:
    """The command that repeats a run and prints its events."""
    return f"slicemq simulate {result.scenario} --seed {result.seed} --trace"


def count(results: Iterable[Result]) -> Tally:
    """A tally of some runs."""
    made = Tally()
    for result in results:
        made.add(result)
    return made
