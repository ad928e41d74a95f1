"""Plans made ahead, one for each node that a pipeline may lose. PURE.

A plan is ready for a loss when its inputs are those that the loss will bring: they are computed by the same
function (`Situation.inputs`) and compared as a whole, but for the files that nodes have: those of the plan are on
their way to its stand-ins, so that it stays the best one. Else a prepared plan is what planning would give then.
Whatever changes the inputs (a node that comes or goes, other free memory, a correction, another pipeline) makes it
useless, and it is made again when there is time.

Plans ahead are made one at a time, and only while no pipeline wants, makes or changes to a plan. One that failed
although there may be one (its process died, a disk was full) is tried again, later each time.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from coordinator.intents import Blueprint, PipelineRecord
from coordinator.situation import Inputs, Situation

IDLE_SECONDS = 1.0
"""How long after a change the plans that are ready are compared with their inputs."""
LOOK_SECONDS = 10.0
"""How often plans that are ready are compared with their inputs again when nothing is known to have changed."""
AGAIN_SECONDS = 10.0
"""How long after it failed a plan is tried again; twice as long after each further failure."""
AGAIN_AT_MOST = 640.0
MOST = 64
"""How many plans are kept ready; of further losses the first in order of pipelines and nodes have one."""


class Unmade(enum.Enum):
    """Why a job made no plan."""

    NONE = "there is none with these nodes"
    GIVEN_UP = "something more urgent came"
    FAILED = "it failed; there may be one"


@dataclass(frozen=True)
class Wanted:
    """The plan that `pipeline` would need if the node `lost` were lost."""

    pipeline: str
    lost: str
    inputs: Inputs


@dataclass(frozen=True)
class _Failure:
    """How often in a row the plan from these inputs failed, and when it is tried again."""

    inputs: Inputs
    times: int
    again: float


@dataclass
class Contingencies:
    """The plans that are ready: (pipeline, lost node) -> inputs, and the plan (None: there is none).

    `due` is when to look next. `under_way` is the job in the making, by its number. `at_rest`: the last look found
    that all is made which can be made.
    """

    due: float = math.inf
    under_way: dict[int, Wanted] = field(default_factory=dict)
    _ready: dict[tuple[str, str], tuple[Inputs, Blueprint | None]] = field(default_factory=dict)
    _failed: dict[tuple[str, str], _Failure] = field(default_factory=dict)
    _told: bool = True
    at_rest: bool = False

    def disturb(self, now: float) -> None:
        """Something changed that plans may depend on."""
        self.due = min(self.due, now + IDLE_SECONDS)
        self._told = False

    def look(self, now: float, situation: Situation) -> Wanted | None:
        """The next plan to make, if it is time and there is one."""
        self.at_rest = False
        if self.under_way or now < self.due:
            return None
        if not all(_settled(record) for record in situation.records.values()):
            self.due = now + IDLE_SECONDS
            return None
        self._told = False
        pairs = _pairs(situation)
        for kept in (self._ready, self._failed):
            for gone in kept.keys() - set(pairs):
                del kept[gone]
        for name, lost in pairs:
            inputs = self._expected(situation, name, lost)
            if (name, lost) in self._ready and _alike(self._ready[name, lost][0], inputs):
                continue
            self._ready.pop((name, lost), None)
            failure = self._failed.get((name, lost))
            if failure is not None and failure.inputs == inputs and now < failure.again:
                continue
            return Wanted(name, lost, inputs)
        self.due = now + LOOK_SECONDS
        self.at_rest = True
        return None

    def idle(self, now: float) -> bool:
        """Whether there is nothing to do until something changes."""
        return not self.under_way and now < self.due

    def begin(self, job: int, wanted: Wanted) -> None:
        """A plan is being made."""
        self.under_way[job] = wanted

    def made(self, now: float, job: int, blueprint: Blueprint) -> None:
        """A job ended: its plan is ready."""
        self._end(now, job, blueprint)

    def unmade(self, now: float, job: int, why: Unmade) -> None:
        """A job ended without a plan."""
        if why is Unmade.NONE:
            self._end(now, job, None)
            return
        wanted = self.under_way.pop(job, None)
        if wanted is None:
            return
        if why is Unmade.GIVEN_UP:
            self.disturb(now)
            return
        pair = (wanted.pipeline, wanted.lost)
        before = self._failed.get(pair)
        times = 1 + (before.times if before is not None and before.inputs == wanted.inputs else 0)
        # The exponent is bounded: of a number of failures without a limit no float could hold the power.
        pause = min(AGAIN_AT_MOST, AGAIN_SECONDS * 2.0 ** min(times - 1, 30))
        self._failed[pair] = _Failure(wanted.inputs, times, now + pause)
        self.due = min(self.due, now)

    def _end(self, now: float, job: int, blueprint: Blueprint | None) -> None:
        wanted = self.under_way.pop(job, None)
        if wanted is not None:
            pair = (wanted.pipeline, wanted.lost)
            self._ready[pair] = (wanted.inputs, blueprint)
            self._failed.pop(pair, None)
            self._told = False
            self.due = min(self.due, now)

    def take(self, pipeline: str, inputs: Inputs) -> tuple[str, Blueprint] | None:
        """(lost node, plan) for these inputs, if one is ready. It is handed out once: should it fail, plan anew."""
        for (name, lost), (expected, blueprint) in self._ready.items():
            if name == pipeline and blueprint is not None and _alike(expected, inputs):
                del self._ready[name, lost]
                self._told = False
                return lost, blueprint
        return None

    def news(self, situation: Situation) -> dict[str, tuple[int, int]]:
        """Pipeline -> (plans that are ready, plans that there shall be); nothing when that cannot have changed."""
        if self._told:
            return {}
        self._told = True
        found = dict.fromkeys(situation.records, (0, 0))
        for name, lost in _pairs(situation):
            ready, wanted = found[name]
            entry = self._ready.get((name, lost))
            found[name] = (ready + (entry is not None and entry[1] is not None), wanted + 1)
        return found

    def plans(self) -> list[Blueprint]:
        """All plans that are ready."""
        return [blueprint for _, blueprint in self._ready.values() if blueprint is not None]

    def artifacts(self) -> set[str]:
        """The hashes of the slices of all plans that are ready."""
        return {item.artifact.sha256 for made in self.plans() for items in made.slices.values() for item in items}

    def _expected(self, situation: Situation, name: str, lost: str) -> Inputs:
        """The inputs that the loss would bring: pipelines before this one that lose too are planned first."""
        placed: dict[str, Blueprint] = {}
        for record in situation.records.values():
            if record.name == name:
                break
            entry = self._ready.get((record.name, lost))
            if entry is not None and entry[1] is not None:
                placed[record.name] = entry[1]
        record = situation.records[name]
        assert record.intent is not None
        return situation.inputs(name, record.intent, lost=lost, placed=placed)


def _alike(made: Inputs, wanted: Inputs) -> bool:
    """Whether a plan made from the first answers the second.

    Which files nodes have by now decides nothing: the stand-ins of the plan that is ready fetch its own.
    """
    return replace(made, known=replace(made.known, held={})) == replace(
        wanted, known=replace(wanted.known, held={})
    )


def _settled(record: PipelineRecord) -> bool:
    """Whether nothing of a pipeline is wanted, planned, prepared or on its way out."""
    if record.removed_at is not None:
        return True
    busy = record.job is not None or record.wish is not None or record.coming is not None
    return not busy and not record.in_phase("draining")


def _pairs(situation: Situation) -> list[tuple[str, str]]:
    """(pipeline, node) for each loss to prepare for, in order."""
    found = list(_losses(situation.records))
    return found[:MOST]


def _losses(records: Mapping[str, PipelineRecord]) -> Iterator[tuple[str, str]]:
    for record in records.values():
        active = record.active
        if record.removed_at is None and active is not None and record.intent is not None:
            yield from ((record.name, node) for node in sorted(active.nodes))
