"""What `benchmarks.upgrades` gives: upgrades and how each ended, what does not hold, and the tables."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import pages
from benchmarks.machine import describe_machine
from benchmarks.upgrade_growth import Sizes, growth
from benchmarks.upgrade_load import Judged, median

KEPT = 0.80
"""A good upgrade keeps this share of the rate, in the median."""
_KINDS = (
    "| upgrades | number | as they should | rate kept, median (worst) | seconds | longest gap, median (worst) |"
)
_SIZES = "| upgrades | topics | kB | broker MB | coordinator MB | planning MB | nodes MB | store MB | caches MB |"


@dataclass(frozen=True)
class Kind:
    """What is tried: `options` of its deployment; it must end with one of `codes` and a reason like `why`."""

    name: str
    codes: tuple[int, ...]
    why: str = ""
    options: tuple[str, ...] = ()


GOOD = Kind("good", (0,))
BAD = (
    Kind("wrong output", (41, 42), r"golden"),
    Kind("crash on load", (41, 42), r"slice .* failed .*(cannot load|died|killed|signal|crash|alloc)"),
    Kind("too slow", (42,), r"times the", ("--canary", "0.25", "--frames", "10", "--seconds", "2")),
    Kind("too big", (21, 41), r"memory|MB"),
)


@dataclass(frozen=True)
class Upgrade:
    """One of them: what became of it. `rate` and `steady` in frames/s, `gap` the longest time without an answer."""

    number: int
    kind: str
    model: str
    code: int
    reason: str
    seconds: float
    rate: float
    steady: float
    gap: float
    wrong: str

    @property
    def share(self) -> float:
        """The rate as a share of the one before."""
        return self.rate / self.steady if self.steady > 0 else float("nan")


@dataclass(frozen=True)
class Outcome:
    """All that a run gives."""

    upgrades: list[Upgrade]
    judged: Judged
    sizes: list[Sizes]
    revisions: int

    @property
    def good(self) -> list[Upgrade]:
        """Those that were to succeed."""
        return [one for one in self.upgrades if one.kind == GOOD.name]

    @property
    def kept(self) -> float:
        """The median share of the rate during a good upgrade."""
        return median([one.share for one in self.good])

    def faults(self) -> list[str]:
        """What does not hold, in words."""
        found = [f"upgrade {one.number} ({one.kind}): {one.wrong}" for one in self.upgrades if one.wrong]
        if not self.judged.sound:
            found += self.judged.examples or ["no frame was answered"]
        if not self.kept >= KEPT:
            found.append(f"a good upgrade keeps {100 * self.kept:.0f} % of the rate, expected {100 * KEPT:.0f} %")
        return found + growth(self.sizes)


def report(outcome: Outcome, given: argparse.Namespace) -> None:
    """Print it, and with --write put it into docs/explanation/performance.md."""
    if given.format == "json":
        body: dict[str, Any] = {
            "machine": describe_machine(),
            "seed": given.seed,
            "judged": asdict(outcome.judged),
            "kept": outcome.kept,
            "revisions": outcome.revisions,
            "upgrades": [{**asdict(one), "share": one.share} for one in outcome.upgrades],
            "sizes": [asdict(one) for one in outcome.sizes],
            "faults": outcome.faults(),
        }
        print(pages.as_json(body))
        return
    text = table(outcome, given)
    if given.write:
        pages.write_region("upgrades", text)
    print(text)


def table(outcome: Outcome, given: argparse.Namespace) -> str:
    """The figures as Markdown."""
    judged = outcome.judged
    load = "a full window" if given.rate is None else f"{given.rate:g} frames/s"
    lines = [
        f"{describe_machine()}; two nodes of {given.share:g} of a core, {load}; "
        f"`python -m benchmarks.upgrades --upgrades {given.upgrades} --bad {given.bad} --seed {given.seed}`",
        "",
        f"{judged.submitted} frames: {judged.lost} lost, {judged.doubled} doubled, {judged.disordered} out of "
        f"order, {judged.mixed} mixed, {judged.unplaced} of unknown revisions.",
        "",
        _KINDS,
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in (GOOD, *BAD):
        own = [one for one in outcome.upgrades if one.kind == kind.name]
        if not own:
            continue
        shares, gaps = [one.share for one in own], [one.gap for one in own]
        lines.append(
            f"| {kind.name} | {len(own)} | {sum(not one.wrong for one in own)} "
            f"| {100 * median(shares):.0f} % ({100 * min(shares):.0f} %) "
            f"| {median([one.seconds for one in own]):.1f} "
            f"| {median(gaps):.2f} s ({max(gaps):.2f} s) |"
        )
    lines += [
        "",
        _SIZES,
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(str(value) for value in asdict(one).values()) + " |" for one in outcome.sizes]
    faults = outcome.faults()
    lines += ["", "Everything holds." if not faults else "Does not hold:", *[f"- {fault}" for fault in faults]]
    return "\n".join(lines)
