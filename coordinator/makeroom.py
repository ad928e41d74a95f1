"""Making room (protocol rule 13): a revision that fits only when the one before it is gone. PURE.

Its revision is `waiting` meanwhile: planned and numbered, and in no assignment.

| step      | what happens                                                    | leaves it when                    |
| --------- | --------------------------------------------------------------- | --------------------------------- |
| fetching  | nodes fetch the files; the old revision serves                  | caches have them, or after        |
|           |                                                                 | `room_fetch` s                    |
| emptying  | `paused`: clients hold frames; the old one answers what it has  | no frame moved for `room_quiet` s |
|           |                                                                 | or after `drain_most` s (rule 14) |
| unloading | the old one is out of the assignments                           | no report lists a slice of it     |
|           |                                                                 | (rule 12); given up after         |
|           |                                                                 | `unload_most` s                   |

Then the revision prepares, is probed and flipped as any other. If it comes to nothing, the old plan returns under
another number. The old revision's route ends as `lost`, so frames that it still held are sent again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from coordinator.health import has_drained, trouble_of
from coordinator.intents import PipelineRecord, Revision, Room, Wish
from coordinator.leftovers import listed_by
from coordinator.lifecycle import abandon, enter
from coordinator.membership import Membership
from coordinator.settings import Settings
from slicemq.messages import Artifact

OPTION = "make_room"
"""The intent's option that forbids it when it is false."""
_LONGEST_REASON = 300


def may_help(record: PipelineRecord, wish: Wish) -> bool:
    """Whether what failed for want of memory may fit in the place of what serves."""
    return (
        not wish.room
        and wish.intent.options.get(OPTION, True) is not False
        and record.active is not None
        and record.room is None
    )


def begin(record: PipelineRecord, coming: Revision, wish: Wish, settings: Settings, now: float) -> None:
    """`coming` is planned into the memory of what serves: let it wait for it.

    Where that was lost meanwhile, what drains goes at once, for the plan counts its memory as well.
    """
    old = record.active
    if old is None:
        for drains in record.in_phase("draining"):
            enter(drains, "lost", now)
        return
    enter(coming, "waiting", now)
    record.room = Room("fetching", old.blueprint, old.intent, wish.room, now + settings.room_fetch)
    record.status = _text(record, coming, "nodes fetch its files")


@dataclass(frozen=True)
class Moved:
    """What `advance` did; with `back` the old plan shall be prepared again (`Room.blueprint`, `Room.intent`)."""

    changed: bool = False
    back: Room | None = None


def advance(record: PipelineRecord, members: Membership, settings: Settings, now: float) -> Moved:
    """Move on what makes room for a revision."""
    room = record.room
    if room is None:
        return Moved()
    coming = record.coming
    if coming is None or record.removed_at is not None:
        return _end(record, room, members, now)
    if coming.phase != "waiting":
        return Moved()
    trouble = trouble_of(coming, members)
    if trouble is None and room.step == "unloading" and now > room.deadline:
        trouble = f"{', '.join(_holders(record, members))} still held slices after {settings.unload_most:.0f} s"
    if trouble is not None:
        abandon(record, coming, trouble, now, settings)
        return _end(record, room, members, now)
    if room.step == "fetching" and record.active is not None:
        if record.wish is not None or record.job is not None:
            # Something newer may take its place: no pause before that is known.
            return Moved()
        lacking = _lacking(coming, members)
        if lacking and now <= room.deadline:
            return _tell(record, coming, f"{', '.join(lacking)} fetch{'es' if len(lacking) == 1 else ''} its files")
        for old in record.in_phase("active"):
            enter(old, "draining", now, settings.drain_most)
        record.room = replace(room, step="emptying", deadline=math.inf)
        return _tell(record, coming, "what is on its way is answered first")
    if room.step != "unloading":
        left = record.in_phase("draining")
        for old in left:
            if has_drained(old, members, replace(settings, drain_quiet=settings.room_quiet), now):
                enter(old, "lost", now)
        if still := record.in_phase("draining"):
            return Moved(len(still) < len(left))
        record.room = replace(room, step="unloading", deadline=now + settings.unload_most)
        return _tell(record, coming, "its place is emptied")
    if _holders(record, members):
        return Moved()
    enter(coming, "preparing", now, settings.prepare_most)
    return _tell(record, coming, "it is loaded")


def files_for(node: str, records: Iterable[PipelineRecord]) -> tuple[Artifact, ...]:
    """The files that a node shall have before the revisions that wait for room are loaded."""
    found = {
        item.artifact.sha256: item.artifact
        for record in records
        if record.removed_at is None
        for revision in record.in_phase("waiting")
        for item in revision.blueprint.slices.get(node, ())
    }
    return tuple(found.values())


def _lacking(coming: Revision, members: Membership) -> list[str]:
    """The nodes that fetch files ahead and have not all that they need."""
    found = []
    for name, items in coming.blueprint.slices.items():
        capacity = members.node(name).current_capacity
        wanted = {item.artifact.sha256 for item in items}
        if capacity is not None and capacity.knows_prefetch and not wanted.issubset(capacity.artifacts):
            found.append(name)
    return sorted(found)


def _holders(record: PipelineRecord, members: Membership) -> list[str]:
    """The nodes that list slices of the pipeline's revisions that are lost (rule 12)."""
    found = set()
    for revision in record.in_phase("lost", "draining"):
        for name in revision.nodes:
            node = members.node(name)
            if node.alive and not listed_by(node.current_report).isdisjoint(revision.keys(name)):
                found.add(name)
    return sorted(found)


def _end(record: PipelineRecord, room: Room, members: Membership, now: float) -> Moved:
    """It is over; what served returns where nothing serves, nothing else is asked for, and its nodes are there."""
    record.room = None
    asked = record.wish is not None or record.job is not None
    gone = record.active is None and record.removed_at is None and not asked
    there = all(members.node(name).usable for name in room.blueprint.slices)
    for old in record.in_phase("draining") if gone else ():
        # Its plan returns in its own place: beside it there may be no room (rule 12).
        enter(old, "lost", now)
    return Moved(True, room if gone and there else None)


def _tell(record: PipelineRecord, coming: Revision, step: str) -> Moved:
    text = _text(record, coming, step)
    changed = text != record.status or step in ("its place is emptied", "it is loaded")
    record.status = text
    return Moved(changed)


def _text(record: PipelineRecord, coming: Revision, step: str) -> str:
    assert record.room is not None
    room = record.room
    return (
        f"making room: {coming.id} ({_places(coming.blueprint.slices)}) takes the place of what served "
        f"({_places(room.blueprint.slices)}): {step}. Both do not fit: {room.why[:_LONGEST_REASON]}"
    )


def _places(slices: Mapping[str, object]) -> str:
    return ", ".join(sorted(slices))
