"""Planning: when it begins, and what becomes of a plan, or of none. PURE.

The shell plans (coordinator/workshop.py); a job's number tells an answer that is waited for from a late one. Plans
that idle time is used for are in idle.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from coordinator import makeroom
from coordinator import rollout as rollouts
from coordinator.actions import MakePlan, StopProbe
from coordinator.intents import Blueprint, Intent, PipelineRecord, Revision, Wish
from coordinator.lifecycle import take_wish, wants_plan
from coordinator.publishing import Publishing
from coordinator.replies import Replies
from coordinator.situation import Inputs
from coordinator.state import State
from coordinator.upkeep import unknown_nodes
from coordinator.urgency import give_up, is_outdated, make_way
from slicemq.errors import InsufficientCapacityError, RequestRefusedError, SliceMQError


class Jobs:
    """The planning under way, and the revisions that made plans become."""

    def __init__(self, state: State, replies: Replies, publishing: Publishing) -> None:
        self._state = state
        self._replies = replies
        self._publishing = publishing
        self._planned_from: tuple[int, Inputs] | None = None

    def begin(self, now: float) -> None:
        """Begin the planning that is due, and give up what it does not wait for, or what counts on a lost node."""
        state = self._state
        for record in list(state.records.values()):
            planned = self._planned_from
            if planned is not None and planned[0] == record.job and is_outdated(record, planned[1], state.members):
                give_up(record)
            due = wants_plan(record, now, state.situation.drained)
            if due and make_way(record, state.records.values()):
                self._plan(record, now)

    def planned(self, now: float, job: int, blueprint: Blueprint) -> bool:
        """A plan is made and its slices are stored: prepare a revision of it. Whether it was waited for."""
        record = self._record_of(job)
        if record is None:
            return False
        state = self._state
        wish, record.job, record.job_wish = record.job_wish, None, None
        active = record.active
        intent = wish.intent if wish is not None else record.intent
        assert intent is not None
        record.room = record.room if record.coming is None else None
        if wish is not None and wish.requester is not None:
            why = "a newer deploy took its place"
            ended = rollouts.end(record, "superseded", why, state.unix(now), now)
            state.actions += [StopProbe(record.name, revision.id) for revision in ended]
            state.changed = True
        if coming := record.coming:
            # A wish superseded what was preparing.
            if coming.phase == "probing":
                state.actions.append(StopProbe(record.name, coming.id))
            del record.revisions[coming.id]
            state.changed = True
        if active is not None and wish is not None and active.blueprint.digest == blueprint.digest:
            why = "what served before is asked for"
            rollouts.end(record, "superseded", why, state.unix(now), now)
            active.intent = record.intent = intent
            active.blueprint = active.blueprint.with_error_of(blueprint)
            record.status = ""
            state.decided()
            if wish.requester is not None:
                # After the plan's document, which whoever asks reads next.
                body = self._deployed(record, wish, active.id, "promoted", unchanged=True)
                self._replies.reply(wish.requester, last=True, body=body)
            return True
        self.prepare(record, wish, intent, blueprint, now)
        if wish is not None and wish.room and record.coming is not None:
            makeroom.begin(record, record.coming, wish, state.settings, now)
        return True

    def failed(self, now: float, job: int, error: SliceMQError) -> bool:
        """No plan can be made now. Whether it was waited for."""
        record = self._record_of(job)
        if record is None:
            return False
        state = self._state
        wish, record.job, record.job_wish = record.job_wish, None, None
        if wish is not None and (room := self._other_way(record, wish, job, error)) is not None:
            self._ask(record, dataclasses.replace(wish, room=room), wish.intent)
        elif wish is not None and wish.requester is not None:
            self._replies.answer(wish, error=str(error), exit_code=error.exit_code)
            if record.intent is None and not record.history:
                state.forget(record, now)
            else:
                rollouts.refused(record, wish, str(error), state.unix(now))
                state.decided()
        elif wish is not None and wish.why and record.active is not None:
            short = isinstance(error, InsufficientCapacityError)
            record.stays = f"{wish.why}, and no plan does without it: {error}"
            record.moves_at = math.inf if short else now + state.settings.move_again
            state.changed = True
        else:
            self._wait(record, None if wish is not None and wish.why else wish, job, error, now)
        return True

    def _wait(self, record: PipelineRecord, wish: Wish | None, job: int, error: SliceMQError, now: float) -> None:
        """Try again later, or with other nodes; what was wished for gives way to what served, if that may fit."""
        state = self._state
        short = isinstance(error, InsufficientCapacityError)
        assert record.intent is not None
        outdated = wish is None and self._planned_from != (job, state.situation.inputs(record.name, record.intent))
        record.needs_nodes = short and not outdated
        record.retry_at = now if outdated else now + state.settings.retry_after
        if wish is not None and record.active is None:
            # What served before may still fit.
            record.needs_nodes, record.retry_at = False, now
            if short:
                record.wish = dataclasses.replace(wish, room="", later=True)
        elif wish is not None and short:
            record.wish = dataclasses.replace(wish, room="")
        elif wish is None and record.wish is not None and short:
            # Neither fits now; the next time the newer one has the first try.
            record.wish = dataclasses.replace(record.wish, later=False)
        record.status = str(error) if record.active is None else f"no newer revision: {error}"
        state.changed = True
        if record.rollout is not None and wish is not None and record.wish is None and record.face is not None:
            rollouts.end(record, "rolled-back", f"no plan: {error}", state.unix(now), now)
            state.decided()

    def _other_way(self, record: PipelineRecord, wish: Wish, job: int, error: SliceMQError) -> str | None:
        """How a wish that failed shall be planned at once again (`Wish.room`); None: it shall not."""
        if not isinstance(error, InsufficientCapacityError):
            return None
        inputs = self._state.situation.inputs(record.name, wish.intent, instead=wish.room != "")
        if self._planned_from != (job, inputs):
            # Nodes came, or memory became free, while it was planned.
            return ""
        return str(error) if makeroom.may_help(record, wish) else None

    def prepare(
        self,
        record: PipelineRecord,
        wish: Wish | None,
        intent: Intent,
        blueprint: Blueprint,
        now: float,
        prepared_for: str = "",
    ) -> None:
        """Begin a revision of a made plan."""
        state = self._state
        record.highest += 1
        revision = Revision(f"{record.highest}-{blueprint.digest[:8]}", intent, blueprint, since=now)
        revision.prepared_for = prepared_for
        revision.why = wish.why if wish is not None else ""
        record.stays = ""
        state.situation.cuts.learn(intent.model.sha256, blueprint)
        revision.deadline = now + state.settings.prepare_most
        record.revisions[revision.id] = revision
        revision.factors = state.situation.factors_of(record, revision)
        rollouts.prepare(record, wish, revision, now)
        record.intent = record.intent or intent
        record.draft = blueprint
        record.status = f"{revision.id}: nodes fetch their slices"
        record.needs_nodes = False
        self._publishing.address(revision.nodes)
        state.decided()
        self._replies.answer(wish, body=self._deployed(record, wish, revision.id, "preparing", unchanged=False))

    def expire(self, record: PipelineRecord, now: float) -> None:
        """A deploy whose plan took too long is refused; the plan may still come, and counts for nothing."""
        wish = record.asked
        if wish is not None and wish.policy is not None and now > wish.deadline:
            self.cancel(record, f"planning took longer than {wish.policy.deadline:g} s", now)

    def cancel(self, record: PipelineRecord, why: str, now: float) -> None:
        """The deploy that waits for its plan ends without one."""
        wish = record.asked
        if wish is None:
            return
        state = self._state
        self._replies.answer(wish, error=f"refused: {why}", exit_code=RequestRefusedError.exit_code)
        rollouts.refused(record, wish, why, state.unix(now))
        if wish is record.wish:
            record.wish = None
        else:
            record.job = record.job_wish = None
        if record.intent is None:
            state.forget(record, now)
        state.decided()

    def _plan(self, record: PipelineRecord, now: float) -> None:
        state = self._state
        wish = take_wish(record, now, state.situation.drained)
        intent = wish.intent if wish is not None else record.intent
        assert intent is not None
        inputs = state.situation.inputs(record.name, intent)
        ready = state.contingencies.take(record.name, inputs) if wish is None else None
        if ready is not None:
            lost, blueprint = ready
            self.prepare(record, None, intent, blueprint, now, prepared_for=lost)
            return
        self._ask(record, wish, intent)

    def _ask(self, record: PipelineRecord, wish: Wish | None, intent: Intent) -> None:
        """Begin the planning of `intent`."""
        state = self._state
        inputs = state.situation.inputs(record.name, intent, instead=wish is not None and wish.room != "")
        job = state.next_job()
        record.job, record.job_wish = job, wish
        self._planned_from = job, inputs
        requester = wish.requester if wish is not None else None
        state.actions.append(make_plan(job, inputs, requester[0] if requester else None))

    def _deployed(
        self, record: PipelineRecord, wish: Wish | None, revision: str, state: str, *, unchanged: bool
    ) -> dict[str, Any]:
        """The answer to a deploy; one that goes back says the rollout's state, too."""
        body: dict[str, Any] = {"name": record.name, "revision": revision, "unchanged": unchanged}
        if wish is not None and (unknown := unknown_nodes(wish.intent, self._state.members)):
            body["unknown_nodes"] = unknown
        return {**body, "state": state} if wish is not None and wish.reason else body

    def _record_of(self, job: int) -> PipelineRecord | None:
        return next((record for record in self._state.records.values() if record.job == job), None)


def make_plan(job: int, inputs: Inputs, client: str | None) -> MakePlan:
    """The shell's order to plan from `inputs`; `client` has the model, if the store has not."""
    return MakePlan(job, inputs.intent, inputs.capacities(), inputs.avoid, client, inputs.known)
