"""What shall happen in a cluster and when, and what came of it. PURE.

An event that `lasts` becomes two actions. What came of it follows from the frames: after an event, the first result
of another revision than the one before it (recovery), and the longest time without any result (stall).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emulator.figures import Answer
from emulator.scenario import Board, Event

# What undoes an event that lasts. A cut ends by itself.
_UNDO = {
    "kill": "start",
    "stop": "start",
    "freeze": "thaw",
    "link-down": "link-up",
    "broker-restart": "broker-start",
    "coordinator-restart": "coordinator-start",
}
_AS = {"broker-restart": "broker-kill", "coordinator-restart": "coordinator-kill"}
_ENDLESS = frozenset({"kill", "stop", "freeze", "link-down"})


@dataclass(frozen=True)
class Action:
    """One thing to do, `at` seconds after the load began. `undo`: it ends what `event` began."""

    at: float
    do: str
    event: Event
    undo: bool = False


@dataclass(frozen=True)
class Happened:
    """An action that was carried out. `began` and `ended` are monotonic seconds; `error`: why it failed."""

    action: Action
    began: float
    ended: float
    error: str = ""


@dataclass(frozen=True)
class Consequence:
    """What came of an action, up to the next one that is no undoing (or the end). Seconds.

    recovery: None when no other revision answered; stall: the longest time without a result.
    """

    happened: Happened
    old_revision: str
    new_revision: str
    recovery: float | None
    stall: float


def actions(events: Iterable[Event]) -> list[Action]:
    """What to do, in order of time; of two at the same time the one that comes first in `events`."""
    found = []
    for event in events:
        found.append(Action(event.at, _AS.get(event.what, event.what), event))
        undo = _UNDO.get(event.what)
        if undo is not None and not (event.lasts is None and event.what in _ENDLESS):
            found.append(Action(event.at + (event.lasts or 0.0), undo, event, undo=True))
    return sorted(found, key=lambda action: action.at)


def regular_cuts(boards: Iterable[Board], until: float) -> list[Event]:
    """The events of boards whose connections are cut every so often, up to `until` seconds."""
    found = []
    for board in boards:
        every = board.kind.cut_every
        if not every:
            continue
        times = int(until / every)
        found += [Event(n * every, "cut", board.name, board.kind.cut_lasts) for n in range(1, times + 1)]
    return found


def consequences(happened: Sequence[Happened], answers: Iterable[Answer], ended: float) -> list[Consequence]:
    """What came of each action, from the results up to `ended` (monotonic seconds)."""
    results = sorted((a for a in answers if not a.error and a.arrived <= ended), key=lambda a: a.arrived)
    ordered = sorted(happened, key=lambda one: one.began)
    found = []
    for place, one in enumerate(ordered):
        # What only ends an event does not end the search for what the event did.
        until = next((later.began for later in ordered[place + 1 :] if not later.action.undo), ended)
        before = [a for a in results if a.arrived <= one.began]
        after = [a for a in results if one.began < a.arrived <= until]
        old = before[-1].revision if before else ""
        other = next((a for a in after if a.revision != old), None) if old else None
        moments = [one.began, *(a.arrived for a in after), max(until, one.began)]
        found.append(
            Consequence(
                happened=one,
                old_revision=old,
                new_revision="" if other is None else other.revision,
                recovery=None if other is None else other.arrived - one.began,
                stall=max(later - earlier for earlier, later in itertools.pairwise(moments)),
            )
        )
    return found
