"""How pipelines move on with time, facts and the answers of probes. PURE.

The steps themselves: lifecycle.py (revisions), makeroom.py (room for one), rollout.py (how one takes over).
"""

from __future__ import annotations

from coordinator import makeroom
from coordinator import rollout as rollouts
from coordinator.actions import Persist, StopProbe, probe_of
from coordinator.intents import PipelineRecord, Revision
from coordinator.jobs import Jobs
from coordinator.lifecycle import advance, must_move, reject
from coordinator.state import State


class Progress:
    """Has every pipeline take the steps that are due."""

    def __init__(self, state: State, jobs: Jobs) -> None:
        self._state = state
        self._jobs = jobs

    def advance(self, now: float) -> None:
        """Move every pipeline on as far as the facts allow; starts no planning."""
        for record in list(self._state.records.values()):
            if record.removed_at is None:
                self._move(record, now)
            else:
                self._end(record, record.removed_at, now)

    def _end(self, record: PipelineRecord, removed_at: float, now: float) -> None:
        """Its documents say that it is removed for a while, then they are cleared (rule 15)."""
        state = self._state
        if (record.face or record.draft) is not None and now - removed_at > state.settings.removed_shown:
            state.forget(record, now)
            state.decided()

    def _move(self, record: PipelineRecord, now: float) -> None:
        state = self._state
        settings, members = state.settings, state.members
        gone = [client for client, until in record.clients.items() if until < now]
        for client in gone:
            del record.clients[client]
        if record.stays and not must_move(record, state.situation.drained):
            record.stays = ""
            state.changed = True
        change = advance(record, members, settings, now)
        room = makeroom.advance(record, members, settings, now)
        if room.back is not None:
            why = record.status
            self._jobs.prepare(record, None, room.back.intent, room.back.blueprint, now)
            record.status = f"{why}; what served before returns"
        self._jobs.expire(record, now)
        moved = rollouts.advance(record, members, settings, change.gone, state.unix(now), now)
        state.changed |= change.changed or room.changed or moved.changed or bool(gone)
        if change.persist or room.changed or moved.persist:
            state.actions.append(Persist())
        state.actions += [StopProbe(record.name, r.id) for r in (*change.unprobe, *moved.unprobe)]
        state.actions += [probe_of(record, revision) for revision in change.probe]

    def probed(self, now: float, pipeline: str, revision_id: str) -> bool:
        """A probe frame has left every output of a revision (rule 11): flip, or begin its shadow or canary.

        Whether it was waited for.
        """
        found = self._probing(pipeline, revision_id)
        if found is None:
            return False
        record, revision = found
        state = self._state
        if rollouts.probed(record, revision, state.settings, state.unix(now), now):
            state.actions.append(StopProbe(pipeline, revision_id))
        state.decided()
        return True

    def probe_failed(self, now: float, pipeline: str, revision_id: str, why: str) -> bool:
        """A probe frame came back with other results than its golden file has, or with errors: it is abandoned.

        Whether it was waited for.
        """
        found = self._probing(pipeline, revision_id)
        if found is None:
            return False
        record, revision = found
        state = self._state
        state.actions.append(StopProbe(pipeline, revision_id))
        rollout = record.rollout
        if rollout is not None and rollout.revision == revision_id:
            rollouts.end(record, "rolled-back", why, state.unix(now), now)
        else:
            reject(record, revision, why, state.members, state.settings, now)
        state.decided()
        return True

    def _probing(self, pipeline: str, revision_id: str) -> tuple[PipelineRecord, Revision] | None:
        record = self._state.records.get(pipeline)
        revision = record.revisions.get(revision_id) if record is not None else None
        if record is None or revision is None or revision.phase != "probing" or record.removed_at is not None:
            return None
        return record, revision
