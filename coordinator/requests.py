"""What clients and operators ask of the coordinator: deploy, undeploy, rollout, pin, upkeep of nodes, attach. PURE.

Each says whether anything follows from it that `Cluster.tick` must look at.
"""

from __future__ import annotations

import math

from coordinator import rollout as rollouts
from coordinator.actions import Persist, StopProbe
from coordinator.asked import RolloutAction, ask_rollout
from coordinator.gate import Policy, Testimony
from coordinator.intents import Intent, PipelineRecord, Wish
from coordinator.jobs import Jobs
from coordinator.publishing import Publishing
from coordinator.replies import Replies
from coordinator.state import State
from coordinator.upkeep import VERBS as UPKEEP
from coordinator.upkeep import pinned
from slicemq.errors import PipelineError, RequestRefusedError, SliceMQError

# More clients than frames in any window change nothing: each has at least one place.
MOST_CLIENTS = 4096


class Requests:
    """The verbs of requests; `requester` is a client and its transaction."""

    def __init__(self, state: State, replies: Replies, publishing: Publishing, jobs: Jobs) -> None:
        self._state = state
        self._replies = replies
        self._publishing = publishing
        self._jobs = jobs

    def deploy(self, now: float, requester: tuple[str, str], intent: Intent, policy: Policy | None) -> bool:
        """This model shall run under this name. Answered when its plan is made, or cannot be."""
        if self._replies.is_repeat(*requester):
            return False
        record = self._state.records.get(intent.name)
        if record is not None and (same := _preparing_already(record, intent)) is not None:
            self._replies.reply(requester, body={"name": record.name, "revision": same, "unchanged": False})
            return False
        if record is None or record.removed_at is not None:
            highest = record.highest if record is not None else 0
            resend = record.resend if record is not None else 0
            record = PipelineRecord(intent.name, highest=highest, resend=resend)
            self._state.records[intent.name] = record
        self._wish(record, intent, requester, policy, now)
        return True

    def rollout(self, now: float, requester: tuple[str, str], name: str, action: RolloutAction, to: str) -> bool:
        """Hold the rollout under way, let it go on, end it well or go back (to the revision `to`)."""
        if self._replies.is_repeat(*requester):
            return False
        state = self._state
        try:
            record = state.running(name)
        except PipelineError as error:
            return self._refuse(requester, error)
        asked = ask_rollout(record, action, to, state.settings, state.unix(now), now)
        state.actions += [StopProbe(name, revision.id) for revision in asked.unprobe]
        if asked.refused:
            return self._refuse(requester, RequestRefusedError(asked.refused))
        if asked.cancel:
            self._jobs.cancel(record, "asked for by an operator", now)
        if asked.deploy is not None:
            reason = f"rollback to {to or 'what served before'}"
            self._wish(record, asked.deploy, requester, None, now, reason)
        else:
            body = {"name": name, "revision": asked.revision, "state": asked.state}
            self._replies.reply(requester, body=body)
        state.decided()
        return True

    def evidence(self, testimony: Testimony) -> None:
        """A client says how the revisions beside each other do; judged at the next tick."""
        record = self._state.records.get(testimony.pipeline)
        if record is not None and record.evidence is not None:
            record.evidence.hear(testimony)

    def undeploy(self, now: float, requester: tuple[str, str], name: str) -> bool:
        """The pipeline shall not run any more."""
        if self._replies.is_repeat(*requester):
            return False
        state = self._state
        try:
            record = state.running(name)
        except PipelineError as error:
            return self._refuse(requester, error)
        for wish in (record.wish, record.job_wish):
            self._replies.answer(wish, error="the pipeline was undeployed", exit_code=RequestRefusedError.exit_code)
        for revision in record.in_phase("probing"):
            state.actions.append(StopProbe(name, revision.id))
        rollouts.end(record, "superseded", "the pipeline was undeployed", state.unix(now), now)
        record.wish = record.job_wish = record.job = None
        record.removed_at = now
        record.status = "undeployed"
        state.decided()
        self._replies.reply(requester, body={"name": name})
        return True

    def pin(self, now: float, requester: tuple[str, str], name: str, slice_id: str, node: str) -> bool:
        """This slice shall run on this node (empty: on any). A deploy with other options."""
        if self._replies.is_repeat(*requester):
            return False
        try:
            intent = pinned(self._state.running(name), slice_id, node, self._state.situation)
        except SliceMQError as error:
            return self._refuse(requester, error)
        return self.deploy(now, requester, intent, None)

    def upkeep(self, requester: tuple[str, str], verb: str, node: str) -> bool:
        """`drain`, `undrain` or `forget` a node. Answered at once; documents say how far it is."""
        if self._replies.is_repeat(*requester):
            return False
        state = self._state
        try:
            body = UPKEEP[verb](state.situation, node)
        except SliceMQError as error:
            return self._refuse(requester, error)
        if verb == "forget":
            self._publishing.forget_node(node)
        state.actions.append(Persist())
        self._replies.reply(requester, body=body)
        state.nodes_changed()
        return True

    def refused(self, requester: tuple[str, str], error: SliceMQError) -> None:
        """A request that could not be read."""
        if not self._replies.is_repeat(*requester):
            self._refuse(requester, error)

    def attach(self, now: float, client: str, pipeline: str, attached: bool) -> bool:
        """A client shares (or gives back) a part of a pipeline's window."""
        state = self._state
        record = state.records.get(pipeline)
        if record is None or record.removed_at is not None:
            return False
        before = len(record.clients)
        if attached and (client in record.clients or before < MOST_CLIENTS):
            record.clients[client] = now + state.settings.client_expires
        elif not attached:
            record.clients.pop(client, None)
        state.changed |= len(record.clients) != before
        return state.changed

    def _wish(
        self,
        record: PipelineRecord,
        intent: Intent,
        requester: tuple[str, str],
        policy: Policy | None,
        now: float,
        reason: str = "",
    ) -> None:
        """This shall run; whoever asked for something else before is told."""
        for wish in (record.wish, record.job_wish):
            error = "a newer deploy took its place"
            self._replies.answer(wish, error=error, exit_code=RequestRefusedError.exit_code)
        record.job = record.job_wish = None
        deadline = now + policy.deadline if policy is not None else math.inf
        begun = self._state.unix(now)
        record.wish = Wish(intent, requester, policy=policy, begun=begun, deadline=deadline, reason=reason)
        self._state.changed = True

    def _refuse(self, requester: tuple[str, str], error: SliceMQError) -> bool:
        self._replies.reply(requester, error=str(error), exit_code=error.exit_code)
        return False


def _preparing_already(record: PipelineRecord, intent: Intent) -> str | None:
    """The revision that prepares for this very intent, if nothing newer is asked for."""
    coming = record.in_phase("waiting", "preparing", "probing", "shadow", "canary")
    if not coming or record.removed_at is not None or record.wish is not None or record.job is not None:
        return None
    return coming[-1].id if coming[-1].intent == intent else None
