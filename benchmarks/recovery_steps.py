"""What a recovery took and where the time went: samples, steps, rows, marks. PURE."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.marks import Mark
from benchmarks.watch import Seen
from slicemq.messages import Assignment, PipelineDocument, Report

DEADLINE = 1.5
"""The default heartbeat deadline in seconds."""
STEPS = ("lost", "assigned", "ready", "flipped", "result")
WORDS = {
    "lost": "the document says `lost`",
    "assigned": "last assignment of the new revision",
    "ready": "last slice reported ready",
    "flipped": "the document names the new revision",
    "result": "first result",
}


@dataclass(frozen=True)
class Kind:
    """What is measured: `median` and `worst` are marks in seconds, None where there is none."""

    name: str
    words: str
    median: float | None = None
    worst: float | None = None


KINDS = (
    Kind("death-warm", "process death (SIGKILL of agent and workers), warm stand-in", 0.5, 1.0),
    Kind("silent", "silent death (SIGSTOP of agent and workers), warm stand-in", None, DEADLINE + 0.5),
    Kind("death-cold", "process death, cold stand-in"),
    Kind("two-nodes", "two nodes at once (SIGKILL)"),
    Kind("broker", "broker restart (SIGKILL, started again at once)"),
    Kind("coordinator", "coordinator death: longest gap between results while it is away"),
)


@dataclass(frozen=True)
class Sample:
    """One fault: seconds until the first result, and since the fault for each of STEPS that was seen.

    prepared: the plan had been made ahead; bytes: what stand-ins had to fetch; usual: the longest gap between
    results in as long a time before the fault (coordinator death alone).
    """

    seconds: float
    steps: Mapping[str, float] = field(default_factory=dict)
    prepared: bool = False
    bytes: int = 0
    usual: float | None = None


def steps(seen: Iterable[Seen], at: float, old: str, new: str) -> dict[str, float]:
    """Seconds since the fault at `at` for what led from revision `old` to `new`, as far as it was seen."""
    found: dict[str, float] = {}
    ready: dict[tuple[str, str], float] = {}
    for one in seen:
        after, document = one.at - at, one.document
        if after < 0:
            continue
        if isinstance(document, Assignment):
            if any(item.revision == new for item in document.slices) and "flipped" not in found:
                found["assigned"] = after
        elif isinstance(document, Report):
            for entry in document.slices:
                if entry.revision == new and entry.state == "ready":
                    ready.setdefault((document.node, entry.slice), after)
        elif isinstance(document, PipelineDocument):
            states = {route.revision: route.state for route in document.routes}
            if states.get(old) == "lost" or (old not in states and document.state == "paused"):
                found.setdefault("lost", after)
            if states.get(new) == "active":
                found.setdefault("flipped", after)
    if ready:
        found["ready"] = max(ready.values())
    return found


@dataclass(frozen=True)
class Row:
    """The samples of one kind."""

    kind: Kind
    samples: Sequence[Sample]

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def worst(self) -> float:
        """Of the seconds."""
        return max(sample.seconds for sample in self.samples)

    @property
    def prepared(self) -> int:
        """How many of the plans had been made ahead."""
        return sum(sample.prepared for sample in self.samples)

    def step(self, name: str) -> float | None:
        """The median of a step, None where it was never seen."""
        found = [sample.steps[name] for sample in self.samples if name in sample.steps]
        return statistics.median(found) if found else None

    def marks(self) -> list[Mark]:
        """What this kind must hold."""
        name, found = self.kind.name, []
        if self.kind.median is not None:
            found.append(Mark(f"{name}: median, s", self.median, most=self.kind.median))
        if self.kind.worst is not None:
            found.append(Mark(f"{name}: worst, s", self.worst, most=self.kind.worst))
        usual = [sample.usual for sample in self.samples if sample.usual is not None]
        if usual:
            # No interruption: nothing that is not seen with the coordinator there.
            found.append(Mark(f"{name}: median of the longest gaps, s", self.median, most=1.5 * max(usual)))
            found.append(Mark(f"{name}: worst gap, s", self.worst, most=max(2.0 * max(usual), 0.25)))
        return found

    def to_plain(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "kind": self.kind.name,
            "median_s": self.median,
            "worst_s": self.worst,
            "prepared": self.prepared,
            "repeats": len(self.samples),
            "steps_median_s": {name: self.step(name) for name in STEPS},
            "samples": [asdict(sample) for sample in self.samples],
            "marks": [mark.to_plain() for mark in self.marks()],
        }


def tables(rows: Sequence[Row]) -> str:
    """Times, and where they went."""
    lines = [
        "| fault | median | worst | repeats | plan made ahead | to fetch |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        size = statistics.median(sample.bytes for sample in row.samples)
        lines.append(
            f"| {row.kind.words} | {row.median:.2f} s | {row.worst:.2f} s | {len(row.samples)} | {row.prepared} "
            f"| {f'{size / 1e3:.0f} kB' if size else 'nothing'} |"
        )
    with_steps = [row for row in rows if row.step("flipped") is not None]
    if with_steps:
        lines += ["", "Seconds from the fault, medians:", ""]
        lines += [
            "| fault | " + " | ".join(WORDS[name] for name in STEPS) + " |",
            "| --- " * (len(STEPS) + 1) + "|",
        ]
        for row in with_steps:
            times = [row.step(name) for name in STEPS]
            cells = ["" if one is None else f"{one:.2f}" for one in times]
            lines.append(f"| {row.kind.words} | " + " | ".join(cells) + " |")
    usual = [sample.usual for row in rows for sample in row.samples if sample.usual is not None]
    if usual:
        lines += [
            "",
            f"With the coordinator there, the longest gaps in as long a time are {statistics.median(usual):.2f} s "
            f"(median) and {max(usual):.2f} s (worst).",
        ]
    return "\n".join(lines)
