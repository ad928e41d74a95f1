"""The coordinator's core: what is known, and what each event changes. PURE: no I/O, no locks, no clock.

Every event takes the time (seconds on a monotonic clock) and returns the actions that its shell must carry out in
order (coordinator/service.py). The life of a revision is in lifecycle.py, who is alive in membership.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterable, Set
from typing import Any

from coordinator import makeroom
from coordinator import rollout as rollouts
from coordinator.actions import (
    Action,
    Clear,
    Listen,
    MakePlan,
    Persist,
    PlanAhead,
    Publish,
    Respond,
    StopProbe,
    probe_of,
)
from coordinator.asked import RolloutAction, ask_rollout
from coordinator.contingency import Contingencies, Unmade
from coordinator.documents import all_documents
from coordinator.echoes import Echoes
from coordinator.gate import Policy, Testimony
from coordinator.intents import Blueprint, Intent, PipelineRecord, Revision, Wish
from coordinator.lifecycle import Settings, advance, must_move, reject, take_wish, wants_plan
from coordinator.membership import Membership
from coordinator.poison import Poison
from coordinator.preship import Preship
from coordinator.rebalance import Rebalance
from coordinator.situation import Inputs, Situation
from coordinator.upkeep import VERBS as UPKEEP
from coordinator.upkeep import pinned, staying
from coordinator.urgency import give_up, is_outdated, make_way
from slicemq.errors import InsufficientCapacityError, PipelineError, RequestRefusedError, SliceMQError
from slicemq.messages import Assignment, Capacity, Heartbeat, NodeState, Report, Response, Stamp
from slicemq.topics import Topics, is_id

_REMEMBERED_ANSWERS = 512
# What looks at every node, for things that are due after a second or more, need not be done at every tick.
_SWEEP_SECONDS = 0.2
# More clients than frames in any window change nothing: each has at least one place.
_MOST_CLIENTS = 4096


class Cluster:
    """The state of one cluster as its coordinator sees it.

    With `lazy` the events of nodes do not tick by themselves: they set `wants_tick`, and whoever hands them in
    calls `tick` soon after the last of those that have come.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        instance: str,
        records: Iterable[PipelineRecord] = (),
        term: int = 0,
        settings: Settings | None = None,
        members: Membership | None = None,
        unix_offset: float = 0.0,
    ) -> None:
        """`unix_offset` is what the times of rollouts have on top of the caller's clock, in seconds."""
        self.topics = topics
        self.instance = instance
        self.settings = settings or Settings()
        self.members = members or Membership()
        self.records = {record.name: record for record in records}
        self.situation = Situation(self.records, self.members)
        self.contingencies = Contingencies()
        self.rebalance = Rebalance()
        self.preship = Preship()
        self.poison = Poison()
        self.term = term
        self.started = False
        self._unix_offset = unix_offset
        self.lazy = False
        self.wants_tick = False
        self._swept = -math.inf
        self._echoes = Echoes()
        self._counter = 0
        self._jobs = 0
        self._planned_from: tuple[int, Inputs] | None = None
        self._published: dict[str, Any] = {}
        self._sent: dict[str, tuple[Stamp, float]] = {}
        # Nodes that have an assignment, and since when it is an empty one of an absent node (else infinity).
        self._addressed: dict[str, float] = {}
        self._answers: OrderedDict[tuple[str, str], Response] = OrderedDict()
        self._actions: list[Action] = []
        self._changed = True

    @property
    def published(self) -> Set[str]:
        """The topics of all documents that it keeps, but its own state."""
        return self._published.keys()

    # -- what is heard -------------------------------------------------------------------------------------

    def saw_term(self, term: int) -> None:
        """A term seen in a document or an echo: this coordinator's must exceed it (rule 21)."""
        if not self.started:
            self.term = max(self.term, term)

    def adopt(self, record: PipelineRecord) -> None:
        """Take over a pipeline that runs but is not in the store (rebuilt from retained documents)."""
        self.records.setdefault(record.name, record)

    def start(self, now: float) -> list[Action]:
        """Begin to decide: the marker came back and a heartbeat deadline has passed (rule 23)."""
        self.term += 1
        self.started = True
        for record in self.records.values():
            for revision in record.revisions.values():
                self._address(revision.nodes)
        self._actions.append(Persist())
        return self.tick(now)

    def stamp(self) -> Stamp:
        """The next stamp of this coordinator."""
        self._counter += 1
        return Stamp(self.term, self.instance, self._counter)

    def on_node_state(self, now: float, document: NodeState) -> list[Action]:
        """A node's state or its will."""
        self.members.on_state(document)
        if self.members.waits_for_beat:
            self._actions.append(Listen())
        self._nodes_changed()
        return self._look(now)

    def on_capacity(self, now: float, document: Capacity) -> list[Action]:
        """A node's capacity."""
        known = self.members.node(document.node).capacity
        self.members.on_capacity(document)
        if known is None or _placement_view(known) != _placement_view(document):
            self._nodes_changed()
            return self._look(now)
        # Which files a node has matters for the plans that are made ahead.
        self.contingencies.disturb(now)
        return []

    def on_report(self, now: float, document: Report) -> list[Action]:
        """A node's report."""
        self.members.on_report(document)
        node = self.members.node(document.node)
        self._changed |= self.poison.heard(now, node.current_report)
        if self.situation.leftovers.reported(node.id, node.current_report):
            self._nodes_changed()
        return self._look(now)

    def on_heartbeat(self, now: float, beat: Heartbeat) -> list[Action]:
        """A node's heartbeat; most change nothing, so only a new life is looked at at once."""
        if beat.seen is not None:
            self.saw_term(beat.seen.term)
            if self.started and beat.seen.term > self.term:
                self._exceed(beat.seen.term)
        if self.started and self.situation.heard(now, beat):
            self._changed = True
            self._actions.append(Persist())
        if self.members.on_heartbeat(beat):
            self._address([beat.node])
            self._nodes_changed()
            return self._look(now)
        return []

    def _exceed(self, echoed: int) -> None:
        """A node ignores this coordinator's documents because it saw a higher term (rule 21)."""
        term = self._echoes.exceeded(self.members.clock, echoed, self.term)
        if term is not None:
            self.term = term
            # All documents go out again, with the higher term.
            self._published = dict.fromkeys(self._published)
            self._changed = True
            self._actions.append(Persist())

    def on_own_beat(self, now: float) -> list[Action]:
        """The coordinator's own beat came back from the broker."""
        if self.members.on_own_beat(now):
            self._nodes_changed()
        return self._look(now)

    def on_disconnected(self) -> None:
        """The connection to the broker is down."""
        self.members.on_disconnected()

    def on_foreign(self, now: float, topic: str) -> list[Action]:
        """A retained document of the coordinator's kind that it does not know: clear it, or end it explicitly."""
        if not self.started or topic in self._published:
            return []
        parts = self.topics.parts(topic)
        if parts[0] == "nodes":
            if not is_id(parts[1]):
                return [Clear(topic)]
            self._address([parts[1]])
            self._changed = True
            return self.tick(now)
        return [Clear(topic)]

    # -- what is asked -------------------------------------------------------------------------------------

    def on_deploy(
        self, now: float, client: str, transaction: str, intent: Intent, policy: Policy | None = None
    ) -> list[Action]:
        """`deploy`: this model shall run under this name. Answered when its plan is made, or cannot be."""
        if self._is_repeat(client, transaction):
            return self._take()
        record = self.records.get(intent.name)
        if record is not None and (same := self._preparing_already(record, intent)) is not None:
            self._reply((client, transaction), body={"name": record.name, "revision": same, "unchanged": False})
            return self._take()
        if record is None or record.removed_at is not None:
            highest = record.highest if record is not None else 0
            resend = record.resend if record is not None else 0
            record = PipelineRecord(intent.name, highest=highest, resend=resend)
            self.records[intent.name] = record
        self._wish(record, intent, (client, transaction), policy, now)
        return self.tick(now)

    def on_rollout(
        self, now: float, client: str, transaction: str, name: str, action: RolloutAction, to: str = ""
    ) -> list[Action]:
        """`rollout`: hold the one under way, let it go on, end it well or go back (to the revision `to`)."""
        if self._is_repeat(client, transaction):
            return self._take()
        requester = (client, transaction)
        record = self.records.get(name)
        if record is None or record.removed_at is not None:
            self._reply(requester, error=f"no pipeline is called {name!r}", exit_code=PipelineError.exit_code)
            return self._take()
        asked = ask_rollout(record, action, to, self.settings, self._unix(now), now)
        self._actions += [StopProbe(name, revision.id) for revision in asked.unprobe]
        if asked.refused:
            self._reply(requester, error=asked.refused, exit_code=RequestRefusedError.exit_code)
            return self._take()
        if asked.cancel:
            self._cancel(record, "asked for by an operator", now)
        if asked.deploy is not None:
            self._wish(record, asked.deploy, requester, None, now, f"rollback to {to or 'what served before'}")
        else:
            self._reply(requester, body={"name": name, "revision": asked.revision, "state": asked.state})
        self._changed = True
        self._actions.append(Persist())
        return self.tick(now)

    def on_evidence(self, now: float, testimony: Testimony) -> list[Action]:
        """A client says how the revisions beside each other do; judged at the next tick."""
        record = self.records.get(testimony.pipeline)
        if record is not None and record.evidence is not None:
            record.evidence.hear(testimony)
        return []

    def on_undeploy(self, now: float, client: str, transaction: str, name: str) -> list[Action]:
        """`undeploy`: the pipeline shall not run any more."""
        if self._is_repeat(client, transaction):
            return self._take()
        record = self.records.get(name)
        requester = (client, transaction)
        if record is None or record.removed_at is not None:
            self._reply(requester, error=f"no pipeline is called {name!r}", exit_code=PipelineError.exit_code)
            return self._take()
        for wish in (record.wish, record.job_wish):
            self._answer(wish, error="the pipeline was undeployed", exit_code=41)
        for revision in record.in_phase("probing"):
            self._actions.append(StopProbe(name, revision.id))
        rollouts.end(record, "superseded", "the pipeline was undeployed", self._unix(now), now)
        record.wish = record.job_wish = record.job = None
        record.removed_at = now
        record.status = "undeployed"
        self._changed = True
        self._actions.append(Persist())
        self._reply(requester, body={"name": name})
        return self.tick(now)

    def on_pin(
        self, now: float, client: str, transaction: str, name: str, slice_id: str, node: str
    ) -> list[Action]:
        """`pin`: this slice shall run on this node (empty: on any). A deploy with other options."""
        if self._is_repeat(client, transaction):
            return self._take()
        try:
            intent = pinned(self._running(name), slice_id, node, self.situation)
        except SliceMQError as error:
            return self.on_refused(client, transaction, error)
        return self.on_deploy(now, client, transaction, intent)

    def on_upkeep(self, now: float, client: str, transaction: str, verb: str, node: str) -> list[Action]:
        """`drain`, `undrain` or `forget` a node. Answered at once; documents say how far it is."""
        if self._is_repeat(client, transaction):
            return self._take()
        try:
            body = UPKEEP[verb](self.situation, node)
        except SliceMQError as error:
            return self.on_refused(client, transaction, error)
        if verb == "forget":
            self._addressed.pop(node, None)
            self._actions += [Clear(self.topics.node(node, leaf)) for leaf in ("state", "capacity", "report")]
        self._actions.append(Persist())
        self._reply((client, transaction), body=body)
        self._nodes_changed()
        return self.tick(now)

    def on_refused(self, client: str, transaction: str, error: SliceMQError) -> list[Action]:
        """A request that could not be read."""
        if not self._is_repeat(client, transaction):
            self._reply((client, transaction), error=str(error), exit_code=error.exit_code)
        return self._take()

    def on_attach(self, now: float, client: str, pipeline: str, attached: bool) -> list[Action]:
        """A client shares (or gives back) a part of a pipeline's window; it says so again every 10 s."""
        record = self.records.get(pipeline)
        if record is None or record.removed_at is not None:
            return []
        before = len(record.clients)
        if attached and (client in record.clients or before < _MOST_CLIENTS):
            record.clients[client] = now + self.settings.client_expires
        elif not attached:
            record.clients.pop(client, None)
        self._changed |= len(record.clients) != before
        return self.tick(now) if self._changed else []

    # -- what the shell answers ----------------------------------------------------------------------------

    def on_planned(self, now: float, job: int, blueprint: Blueprint) -> list[Action]:
        """A plan is made and its slices are stored: prepare a revision of it."""
        record = self._record_of(job)
        if record is None:
            return []
        wish, record.job, record.job_wish = record.job_wish, None, None
        active = record.active
        intent = wish.intent if wish is not None else record.intent
        assert intent is not None
        record.room = record.room if record.coming is None else None
        if wish is not None and wish.requester is not None:
            ended = rollouts.end(record, "superseded", "a newer deploy took its place", self._unix(now), now)
            self._actions += [StopProbe(record.name, revision.id) for revision in ended]
            self._changed = True
        if coming := record.coming:
            # A wish superseded what was preparing.
            if coming.phase == "probing":
                self._actions.append(StopProbe(record.name, coming.id))
            del record.revisions[coming.id]
            self._changed = True
        if active is not None and wish is not None and active.blueprint.digest == blueprint.digest:
            rollouts.end(record, "superseded", "what served before is asked for", self._unix(now), now)
            active.intent = record.intent = intent
            active.blueprint = active.blueprint.with_error_of(blueprint)
            record.status = ""
            self._changed = True
            self._actions.append(Persist())
            actions = self.tick(now)
            # After the plan's document, which whoever asks reads next.
            self._answer(wish, body=_deployed(record, wish, active.id, "promoted", unchanged=True))
            return [*actions, *self._take()]
        self._prepare(record, wish, intent, blueprint, now)
        if wish is not None and wish.room and record.coming is not None:
            makeroom.begin(record, record.coming, wish, self.settings, now)
        return self.tick(now)

    def on_foreseen(self, now: float, job: int, blueprint: Blueprint) -> list[Action]:
        """A plan is made ahead."""
        self.contingencies.made(now, job, blueprint)
        move = self.rebalance.made(now, job, blueprint, self.situation)
        if move is not None:
            record = self.records[move.pipeline]
            assert record.intent is not None
            self._prepare(record, Wish(record.intent, None, why=move.why), record.intent, blueprint, now)
        return self.tick(now)

    def on_unforeseen(self, now: float, job: int, why: Unmade) -> list[Action]:
        """A plan ahead was not made."""
        self.contingencies.unmade(now, job, why)
        self.rebalance.unmade(job, again=why is Unmade.GIVEN_UP)
        return [] if why is Unmade.GIVEN_UP else self.tick(now)

    def on_plan_failed(self, now: float, job: int, error: SliceMQError) -> list[Action]:
        """No plan can be made now."""
        record = self._record_of(job)
        if record is None:
            return []
        wish, record.job, record.job_wish = record.job_wish, None, None
        if wish is not None and (room := self._other_way(record, wish, job, error)) is not None:
            self._ask(record, dataclasses.replace(wish, room=room), wish.intent)
            return self.tick(now)
        if wish is not None and wish.requester is not None:
            self._answer(wish, error=str(error), exit_code=error.exit_code)
            if record.intent is None and not record.history:
                self._forget(record, now)
            else:
                rollouts.refused(record, wish, str(error), self._unix(now))
                self._changed = True
                self._actions.append(Persist())
            return self.tick(now)
        short = isinstance(error, InsufficientCapacityError)
        if wish is not None and wish.why:
            if record.active is not None:
                record.stays = f"{wish.why}, and no plan does without it: {error}"
                record.moves_at = math.inf if short else now + self.settings.move_again
                self._changed = True
                return self.tick(now)
            wish = None
        assert record.intent is not None
        outdated = wish is None and self._planned_from != (job, self.situation.inputs(record.name, record.intent))
        record.needs_nodes = short and not outdated
        record.retry_at = now if outdated else now + self.settings.retry_after
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
        if record.rollout is not None and wish is not None and record.wish is None and record.face is not None:
            rollouts.end(record, "rolled-back", f"no plan: {error}", self._unix(now), now)
            self._actions.append(Persist())
        self._changed = True
        return self.tick(now)

    def _other_way(self, record: PipelineRecord, wish: Wish, job: int, error: SliceMQError) -> str | None:
        """How a wish that failed shall be planned at once again (`Wish.room`); None: it shall not."""
        if not isinstance(error, InsufficientCapacityError):
            return None
        inputs = self.situation.inputs(record.name, wish.intent, instead=wish.room != "")
        if self._planned_from != (job, inputs):
            # Nodes came, or memory became free, while it was planned.
            return ""
        return str(error) if makeroom.may_help(record, wish) else None

    def on_probed(self, now: float, pipeline: str, revision_id: str) -> list[Action]:
        """A probe frame has left every output of a revision (rule 11): flip, or begin its shadow or canary."""
        record = self.records.get(pipeline)
        revision = record.revisions.get(revision_id) if record is not None else None
        if record is None or revision is None or revision.phase != "probing" or record.removed_at is not None:
            return []
        if rollouts.probed(record, revision, self.settings, self._unix(now), now):
            self._actions.append(StopProbe(pipeline, revision_id))
        self._changed = True
        self._actions.append(Persist())
        return self.tick(now)

    def on_golden_failed(self, now: float, pipeline: str, revision_id: str, why: str) -> list[Action]:
        """A probe frame came back with other results than its golden file has: the revision is abandoned."""
        record = self.records.get(pipeline)
        revision = record.revisions.get(revision_id) if record is not None else None
        if record is None or revision is None or revision.phase != "probing" or record.removed_at is not None:
            return []
        self._actions.append(StopProbe(pipeline, revision_id))
        rollout = record.rollout
        if rollout is not None and rollout.revision == revision_id:
            rollouts.end(record, "rolled-back", f"golden frame: {why}", self._unix(now), now)
        else:
            reject(record, revision, f"golden frame: {why}", self.members, self.settings, now)
        self._changed = True
        self._actions.append(Persist())
        return self.tick(now)

    def _look(self, now: float) -> list[Action]:
        """What an event leads to that comes from each of many nodes: with `lazy` one tick for many of them."""
        if not self.lazy:
            return self.tick(now)
        self.wants_tick = True
        return self._take()

    # -- time ----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Move on whatever time or facts allow; returns all actions that have come up."""
        self.wants_tick = False
        if not self.started:
            return self._take()
        for record in list(self.records.values()):
            self._advance(record, now)
        for record in list(self.records.values()):
            planned = self._planned_from
            if planned is not None and planned[0] == record.job and is_outdated(record, planned[1], self.members):
                give_up(record)
            if wants_plan(record, now, self.situation.drained) and make_way(record, self.records.values()):
                self._plan(record, now)
        self._changed |= self.poison.expire(now)
        sweeps = self._changed or not 0.0 <= now - self._swept < _SWEEP_SECONDS
        if sweeps:
            self._swept = now
            self._clear_addresses(now)
        if self._changed:
            self.contingencies.disturb(now)
        self._plan_ahead(now)
        if self._changed:
            self._changed = False
            self._flush(now)
        if sweeps:
            self._repeat_unseen(now)
        return self._take()

    def _advance(self, record: PipelineRecord, now: float) -> None:
        if record.removed_at is not None:
            if (record.face or record.draft) is not None and now - record.removed_at > self.settings.removed_shown:
                self._forget(record, now)
                self._changed = True
                self._actions.append(Persist())
            return
        gone = [client for client, until in record.clients.items() if until < now]
        for client in gone:
            del record.clients[client]
        if record.stays and not must_move(record, self.situation.drained):
            record.stays = ""
            self._changed = True
        change = advance(record, self.members, self.settings, now)
        room = makeroom.advance(record, self.members, self.settings, now)
        if room.back is not None:
            why = record.status
            self._prepare(record, None, room.back.intent, room.back.blueprint, now)
            record.status = f"{why}; what served before returns"
        self._expire(record, now)
        moved = rollouts.advance(record, self.members, self.settings, change.gone, self._unix(now), now)
        self._changed |= change.changed or room.changed or moved.changed or bool(gone)
        if change.persist or room.changed or moved.persist:
            self._actions.append(Persist())
        self._actions += [StopProbe(record.name, r.id) for r in (*change.unprobe, *moved.unprobe)]
        self._actions += [probe_of(record, revision) for revision in change.probe]

    def _expire(self, record: PipelineRecord, now: float) -> None:
        """A deploy whose plan took too long is refused; the plan may still come, and counts for nothing."""
        wish = record.asked
        if wish is not None and wish.policy is not None and now > wish.deadline:
            self._cancel(record, f"planning took longer than {wish.policy.deadline:g} s", now)

    def _cancel(self, record: PipelineRecord, why: str, now: float) -> None:
        """The deploy that waits for its plan ends without one."""
        wish = record.asked
        if wish is None:
            return
        self._answer(wish, error=f"refused: {why}", exit_code=RequestRefusedError.exit_code)
        rollouts.refused(record, wish, why, self._unix(now))
        if wish is record.wish:
            record.wish = None
        else:
            record.job = record.job_wish = None
        if record.intent is None:
            self._forget(record, now)
        self._changed = True
        self._actions.append(Persist())

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
            self._answer(wish, error="a newer deploy took its place", exit_code=41)
        record.job = record.job_wish = None
        deadline = now + policy.deadline if policy is not None else math.inf
        record.wish = Wish(
            intent, requester, policy=policy, begun=self._unix(now), deadline=deadline, reason=reason
        )
        self._changed = True

    def _unix(self, now: float) -> float:
        return now + self._unix_offset

    def _prepare(
        self,
        record: PipelineRecord,
        wish: Wish | None,
        intent: Intent,
        blueprint: Blueprint,
        now: float,
        prepared_for: str = "",
    ) -> None:
        """Begin a revision of a made plan."""
        record.highest += 1
        revision = Revision(f"{record.highest}-{blueprint.digest[:8]}", intent, blueprint, since=now)
        revision.prepared_for = prepared_for
        revision.why = wish.why if wish is not None else ""
        record.stays = ""
        self.situation.cuts.learn(intent.model.sha256, blueprint)
        revision.deadline = now + self.settings.prepare_most
        record.revisions[revision.id] = revision
        revision.factors = self.situation.factors_of(record, revision)
        rollouts.prepare(record, wish, revision, now)
        record.intent = record.intent or intent
        record.draft = blueprint
        record.status = f"{revision.id}: nodes fetch their slices"
        record.needs_nodes = False
        self._address(revision.nodes)
        self._changed = True
        self._actions.append(Persist())
        self._answer(wish, body=_deployed(record, wish, revision.id, "preparing", unchanged=False))

    def _plan(self, record: PipelineRecord, now: float) -> None:
        wish = take_wish(record, now, self.situation.drained)
        intent = wish.intent if wish is not None else record.intent
        assert intent is not None
        inputs = self.situation.inputs(record.name, intent)
        ready = self.contingencies.take(record.name, inputs) if wish is None else None
        if ready is not None:
            lost, blueprint = ready
            self._prepare(record, None, intent, blueprint, now, prepared_for=lost)
            return
        self._ask(record, wish, intent)

    def _ask(self, record: PipelineRecord, wish: Wish | None, intent: Intent) -> None:
        """Begin the planning of `intent`."""
        inputs = self.situation.inputs(record.name, intent, instead=wish is not None and wish.room != "")
        job = self._next_job()
        record.job, record.job_wish = job, wish
        self._planned_from = job, inputs
        requester = wish.requester if wish is not None else None
        self._actions.append(_make_plan(job, inputs, requester[0] if requester else None))

    def _next_job(self) -> int:
        self._jobs += 1
        return self._jobs

    def _plan_ahead(self, now: float) -> None:
        wanted = self.contingencies.look(now, self.situation) if not self.rebalance.under_way else None
        if wanted is not None:
            job = self._next_job()
            self.contingencies.begin(job, wanted)
            self._actions.append(PlanAhead(wanted.lost, _make_plan(job, wanted.inputs, None)))
        elif self.contingencies.idle(now):
            compare = self.rebalance.look(now, self.situation)
            if compare is not None:
                job = self._next_job()
                self.rebalance.begin(job, compare)
                self._actions.append(PlanAhead("", _make_plan(job, compare.inputs, None)))
        if self.contingencies.at_rest:
            nodes = self.members.nodes.values()
            capacities = {node.id: one for node in nodes if (one := node.current_capacity) is not None}
            self._changed |= self.preship.plan(self.contingencies.plans(), self.records, capacities)
        for name, foreseen in self.contingencies.news(self.situation).items():
            self._changed |= self.records[name].foreseen != foreseen
            self.records[name].foreseen = foreseen

    def _forget(self, record: PipelineRecord, now: float) -> None:
        """Keep nothing of a pipeline but the number that its next revision must exceed (rule 1)."""
        del self.records[record.name]
        if record.highest > 0:
            left = PipelineRecord(record.name, highest=record.highest, resend=record.resend, removed_at=now)
            self.records[record.name] = left

    def _preparing_already(self, record: PipelineRecord, intent: Intent) -> str | None:
        """The revision that prepares for this very intent, if nothing newer is asked for."""
        coming = record.in_phase("waiting", "preparing", "probing", "shadow", "canary")
        if not coming or record.removed_at is not None or record.wish is not None or record.job is not None:
            return None
        return coming[-1].id if coming[-1].intent == intent else None

    # -- documents and answers -----------------------------------------------------------------------------

    def _flush(self, now: float) -> None:
        drained = staying(self.records, self.situation.drained)
        self._address((drained.keys() | self.preship.nodes) - self._addressed.keys())
        wanted = all_documents(
            self.topics,
            self.records,
            sorted(self._addressed),
            self.situation.factors,
            drained,
            self.poison,
            self.preship,
        )
        for topic in [topic for topic in self._published if topic not in wanted]:
            del self._published[topic]
            self._sent.pop(topic, None)
            self._actions.append(Clear(topic))
        for topic, document in wanted.items():
            if self._published.get(topic) != document:
                before = self._published.get(topic)
                if isinstance(document, Assignment) and (before is None or before.slices != document.slices):
                    known = self.members.nodes.get(document.node)
                    report = known.current_report if known is not None else None
                    told = before.slices if before is not None else ()
                    self.situation.leftovers.assigned(
                        self.members.clock, document.node, told, document.slices, report
                    )
                    # Memory may have become free.
                    for record in self.records.values():
                        record.look_again()
                self._published[topic] = document
                stamped = dataclasses.replace(document, stamp=self.stamp())
                self._sent[topic] = (stamped.stamp, now)
                self._actions.append(Publish(topic, stamped))

    def _repeat_unseen(self, now: float) -> None:
        """Send an assignment again until the node's report says that it saw it (rule 7)."""
        for name in self._addressed:
            node = self.members.nodes.get(name)
            topic = self.topics.node(name, "assignment")
            if node is None or not node.alive or topic not in self._sent:
                continue
            stamp, when = self._sent[topic]
            report = node.current_report
            seen = report.seen if report is not None else None
            if (seen is None or seen < stamp) and now - when >= self.settings.resend_assignment:
                self._sent[topic] = (stamp, now)
                self._actions.append(Publish(topic, dataclasses.replace(self._published[topic], stamp=stamp)))

    def _address(self, nodes: Iterable[str]) -> None:
        """Publish assignments to these nodes from now on."""
        for name in nodes:
            self._addressed[name] = math.inf

    def _clear_addresses(self, now: float) -> None:
        """Clear the empty assignments of nodes that have been away for a grace period (rule 15)."""
        for name, since in list(self._addressed.items()):
            node = self.members.nodes.get(name)
            document = self._published.get(self.topics.node(name, "assignment"))
            told = document is None or document.slices or document.draining
            if (node is not None and node.alive) or told:
                self._addressed[name] = math.inf
            elif since == math.inf:
                self._addressed[name] = now
            elif now - since > self.settings.removed_shown:
                del self._addressed[name]
                self._changed = True

    def _nodes_changed(self) -> None:
        self._changed = True
        for record in self.records.values():
            record.look_again()

    def _running(self, name: str) -> PipelineRecord:
        """The pipeline that runs, or shall run. Raises PipelineError."""
        record = self.records.get(name)
        if record is None or record.removed_at is not None:
            raise PipelineError(f"no pipeline is called {name!r}")
        return record

    def _record_of(self, job: int) -> PipelineRecord | None:
        return next((record for record in self.records.values() if record.job == job), None)

    def _is_repeat(self, client: str, transaction: str) -> bool:
        known = self._answers.get((client, transaction))
        if known is not None:
            self._actions.append(Respond(client, known))
            return True
        waiting = {
            wish.requester
            for record in self.records.values()
            for wish in (record.wish, record.job_wish)
            if wish is not None
        }
        return (client, transaction) in waiting

    def _answer(self, wish: Wish | None, **fields: Any) -> None:
        if wish is not None and wish.requester is not None:
            self._reply(wish.requester, **fields)

    def _reply(self, requester: tuple[str, str], **fields: Any) -> None:
        response = Response(requester[1], **fields)
        self._answers[requester] = response
        while len(self._answers) > _REMEMBERED_ANSWERS:
            self._answers.popitem(last=False)
        self._actions.append(Respond(requester[0], response))

    def _take(self) -> list[Action]:
        """The actions so far, with one Persist in front of all if any asks for it."""
        actions, self._actions = self._actions, []
        persist = any(isinstance(action, Persist) for action in actions)
        rest: list[Action] = [action for action in actions if not isinstance(action, Persist)]
        return [Persist(), *rest] if persist else rest


def _make_plan(job: int, inputs: Inputs, client: str | None) -> MakePlan:
    return MakePlan(job, inputs.intent, inputs.capacities(), inputs.avoid, client, inputs.known)


def _deployed(
    record: PipelineRecord, wish: Wish | None, revision: str, state: str, *, unchanged: bool
) -> dict[str, Any]:
    """The answer to a deploy; one that goes back says the rollout's state, too."""
    body: dict[str, Any] = {"name": record.name, "revision": revision, "unchanged": unchanged}
    return {**body, "state": state} if wish is not None and wish.reason else body


def _placement_view(capacity: Capacity) -> Capacity:
    """What of a capacity matters for placing slices (not which artifacts are cached)."""
    return dataclasses.replace(capacity, artifacts=())
