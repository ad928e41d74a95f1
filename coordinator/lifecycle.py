"""The life of a revision, and when a pipeline needs a new one. PURE.

| phase     | leaves it when                                             | to                    |
| --------- | ---------------------------------------------------------- | --------------------- |
| waiting   | there is room for it (makeroom.py)                         | preparing             |
| preparing | every slice reports ready in its node's current life       | probing               |
|           | a node is lost, a slice fails, the deadline passes         | (dropped), plan again |
| probing   | of each turn a probe frame has left every output (rule 11) | active; shadow or     |
|           |                                                            | canary by its rollout |
|           | as above                                                   | (dropped), plan again |
| shadow    | its rollout goes on                                        | canary, active        |
|           | its rollout ends; a node is lost, a slice fails or hangs   | (dropped)             |
| canary    | its rollout promotes it                                    | active                |
|           | as above                                                   | lost                  |
| active    | a newer revision becomes active                            | draining              |
|           | a node is lost; a slice fails, hangs or stays not ready;   | lost, plan again      |
|           | a data broker is withdrawn                                 |                       |
| draining  | no frame moved for `drain_quiet` s, or `drain_most` s over | (retired)             |
|           | a node is lost                                             | lost                  |
| lost      | `lost_shown` s after a newer one became active             | (forgotten)           |

Slices of `lost` revisions leave the assignments at once; their routes stay in the pipeline's document, so
that clients know to send again. A revision in canary has an active route besides the active revision's own, one
in shadow has the document's `shadow`; what becomes of both is decided in rollout.py. A slice that stops being ready
and comes back in time (its worker was started again) raises the document's `resend`, because what it held is gone.
So does a connection that comes back after it was down: frames that were sent meanwhile met no subscriber.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from coordinator.actions import PROBES_AT_ONCE
from coordinator.health import blame, hanging, has_drained, listed, note_cut, trouble_of, unready, unready_for
from coordinator.intents import PipelineRecord, Revision, Wish
from coordinator.membership import Membership
from coordinator.settings import Settings

MOST_LOST = 16
"""So many lost revisions are shown at most, the latest: with more, clients send again at their own deadlines."""


@dataclass(frozen=True)
class Change:
    """What `advance` found: `probe` and `unprobe` name revisions; `changed` says that documents differ now.

    `gone` has the revisions that were abandoned or lost, and why.
    """

    changed: bool = False
    probe: tuple[Revision, ...] = ()
    unprobe: tuple[Revision, ...] = ()
    persist: bool = False
    gone: dict[str, str] = field(default_factory=dict)


def advance(record: PipelineRecord, members: Membership, settings: Settings, now: float) -> Change:
    """Move every revision of `record` as far as the facts allow; starts no planning."""
    changed = worded = False
    probe: list[Revision] = []
    unprobe: list[Revision] = []
    gone: dict[str, str] = {}
    for revision in list(record.revisions.values()):
        phase = revision.phase
        if phase in ("preparing", "probing"):
            trouble = trouble_of(revision, members)
            if trouble is None and now > revision.deadline:
                waiting = sorted(unready(revision, members))
                trouble = (
                    f"{phase} took longer than {now - revision.since:.0f} s ({', '.join(waiting) or 'no answer'})"
                )
                for node, slices in unready(revision, members).items():
                    blame(revision, members, node, slices)
            if trouble is not None:
                gone[revision.id] = trouble
                abandon(record, revision, trouble, now, settings)
                if phase == "probing":
                    unprobe.append(revision)
            elif phase == "preparing":
                missing = unready(revision, members)
                status = _preparing_status(revision, missing)
                # Only a word: nothing that has to be stored before it is published.
                worded |= status != record.status
                record.status = status
                if not missing:
                    golden = revision.blueprint.golden
                    probes = revision.blueprint.route.turns * (golden.frames if golden is not None else 1)
                    rounds = math.ceil(probes / PROBES_AT_ONCE)
                    enter(revision, "probing", now, rounds * settings.probe_most)
                    probe.append(revision)
                    record.status = f"{revision.id}: waiting for the probe frame"
        elif phase in ("active", "canary", "shadow"):
            trouble = trouble_of(revision, members) or hanging(revision, members)
            resend = record.resend
            trouble = trouble or unready_for(record, revision, members, settings, now)
            if trouble is None:
                note_cut(record, revision, members)
            changed |= record.resend != resend
            if trouble is not None:
                gone[revision.id] = trouble
                _lose(record, revision, trouble, now)
        elif phase == "draining":
            if any(not members.node(name).alive for name in revision.nodes):
                enter(revision, "lost", now)
            elif record.room is not None and record.room.step != "fetching":
                # It is emptied by makeroom.py.
                continue
            elif has_drained(revision, members, settings, now):
                del record.revisions[revision.id]
        elif phase == "lost" and record.active is not None and now - revision.since > settings.lost_shown:
            del record.revisions[revision.id]
        changed |= revision.id not in record.revisions or revision.phase != phase
    for revision in record.in_phase("lost")[:-MOST_LOST]:
        del record.revisions[revision.id]
        changed = True
    return Change(changed or worded, tuple(probe), tuple(unprobe), persist=changed, gone=gone)


def flip(record: PipelineRecord, revision: Revision, settings: Settings, now: float) -> None:
    """Make `revision` the active one; the one before it drains."""
    for old in record.in_phase("active"):
        enter(old, "draining", now, settings.drain_most)
    for lost in record.in_phase("lost"):
        lost.since = now
    step_to(revision, "active", now)
    record.intent = revision.intent
    record.face = revision.blueprint
    record.failures = 0
    record.status = ""
    record.needs_nodes = False


def step_to(revision: Revision, phase: Literal["shadow", "canary", "active"], now: float) -> None:
    """The revision begins a phase in which it takes frames."""
    enter(revision, phase, now)


def drop_candidate(record: PipelineRecord, revision: Revision, now: float) -> None:
    """A revision that its rollout gave up: clients that sent to it must know, all others never heard of it."""
    if revision.phase == "canary":
        enter(revision, "lost", now)
    else:
        del record.revisions[revision.id]


def reject(
    record: PipelineRecord, revision: Revision, why: str, members: Membership, settings: Settings, now: float
) -> None:
    """A revision that is being probed gives wrong results: it is abandoned.

    Where the same model served before, the fault is with the nodes: others are planned with first.
    """
    if record.face is not None and revision.intent == record.intent:
        for name in revision.nodes:
            members.shun(name)
    abandon(record, revision, why, now, settings)


def wants_plan(record: PipelineRecord, now: float, drained: Collection[str] = ()) -> bool:
    """Whether planning should start now: something is wished for, nothing serves the pipeline, or it must move."""
    if record.removed_at is not None or record.job is not None:
        return False
    if _wish_is_due(record, now):
        return True
    if record.active is not None:
        return must_move(record, drained) and now >= record.moves_at
    waits = record.needs_nodes or now < record.retry_at
    asked = record.wish is not None and not record.wish.later
    return not asked and record.intent is not None and record.coming is None and not waits


def take_wish(record: PipelineRecord, now: float, drained: Collection[str]) -> Wish | None:
    """What to plan, where `wants_plan`; None: what served before shall serve again."""
    if record.active is not None and not _wish_is_due(record, now):
        assert record.intent is not None
        leaves = ", ".join(sorted(record.active.nodes & set(drained)))
        return Wish(record.intent, None, why=f"node {leaves} is drained")
    if record.wish is not None and record.wish.later and record.active is None:
        return None
    wish, record.wish = record.wish, None
    return wish


def _wish_is_due(record: PipelineRecord, now: float) -> bool:
    wish = record.wish
    if wish is None or (wish.later and record.active is None):
        return False
    waits = record.needs_nodes or now < record.retry_at
    return wish.requester is not None or not waits


def must_move(record: PipelineRecord, drained: Collection[str]) -> bool:
    """Whether a pipeline that is served has slices on a drained node, and nothing of it is on its way."""
    active = record.active
    under_way = record.in_phase("waiting", "preparing", "probing", "shadow", "canary")
    return active is not None and not under_way and not active.nodes.isdisjoint(drained)


def _preparing_status(revision: Revision, missing: dict[str, list[str]]) -> str:
    total = sum(len(revision.keys(name)) for name in revision.nodes)
    waiting = sum(len(slices) for slices in missing.values())
    text = f"{revision.id}: {total - waiting} of {total} slices ready"
    return f"{text}, waiting for {listed(missing)}" if missing else text


def abandon(record: PipelineRecord, revision: Revision, why: str, now: float, settings: Settings) -> None:
    """Drop a revision that was not active yet."""
    del record.revisions[revision.id]
    record.status = f"{revision.id} was abandoned: {why}"
    lost_node = why.startswith("node ")
    if lost_node:
        record.retry_at = now
    else:
        # What every node refuses would else be tried, and numbered, without end.
        record.retry_at = now + settings.retry_after * 2.0 ** min(record.failures, settings.retry_doublings)
        record.failures += 1
    record.moves_at = record.retry_at
    if record.face is None:
        record.intent = revision.intent
    elif revision.why:
        # What it moves for still holds, or does not: that decides.
        pass
    elif (
        lost_node
        and record.wish is None
        # A plan for something newer may be in the making.
        and record.job_wish is None
        and record.room is None
        and (record.active is not None or revision.intent != record.intent)
    ):
        # It is no fault of what was asked for. In any other case the pipeline goes back to what served before.
        record.wish = Wish(revision.intent, None)


def _lose(record: PipelineRecord, revision: Revision, why: str, now: float) -> None:
    if revision.phase in ("canary", "shadow"):
        drop_candidate(record, revision, now)
        record.status = f"{revision.id} was abandoned: {why}"
        if why.startswith("node ") and record.wish is None and record.active is not None:
            # It is no fault of what was asked for.
            record.retry_at = now
            record.wish = Wish(revision.intent, None)
        return
    enter(revision, "lost", now)
    record.status = f"{revision.id} was lost: {why}"
    record.retry_at = now


def enter(revision: Revision, phase: str, now: float, within: float = math.inf) -> None:
    """Begin a phase, of at most `within` seconds."""
    revision.phase = phase  # type: ignore[assignment]
    revision.since = now
    revision.deadline = now + within
    revision.unready = revision.quiet = None
