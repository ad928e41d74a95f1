"""The coordinator's core: what is known, and what each event changes. PURE: no I/O, no locks, no clock.

Every event takes the time (seconds on a monotonic clock) and returns the actions (actions.py) that its shell must
carry out in order (service.py). An event changes the state, then `tick` has everything move on that can.

| event                                        | comes from                          | is taken by              |
| -------------------------------------------- | ----------------------------------- | ------------------------ |
| `on_node_state`, `on_capacity`, `on_report`, | nodes                               | membership.py, poison.py |
| `on_heartbeat`                               |                                     |                          |
| `on_own_beat`, `on_disconnected`             | the broker                          | membership.py            |
| `saw_term`, `found_assignment`,              | the broker: what other coordinators | publishing.py            |
| `on_foreign`                                 | wrote                               |                          |
| `on_deploy`, `on_undeploy`, `on_rollout`,    | clients and operators               | requests.py              |
| `on_pin`, `on_upkeep`, `on_attach`,          |                                     |                          |
| `on_evidence`, `on_refused`                  |                                     |                          |
| `on_planned`, `on_plan_failed`               | the shell: a plan that was needed   | jobs.py                  |
| `on_foreseen`, `on_unforeseen`               | the shell: a plan ahead             | idle.py                  |
| `on_probed`, `on_probe_failed`               | the shell: probe frames             | progress.py              |
| `tick`                                       | the shell's clock                   | progress.py, jobs.py,    |
|                                              |                                     | idle.py, publishing.py   |

What all of them share is in state.py; requests are answered by replies.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Set

from coordinator.actions import Action, Listen, Persist
from coordinator.asked import RolloutAction
from coordinator.contingency import Unmade
from coordinator.gate import Policy, Testimony
from coordinator.idle import Idle
from coordinator.intents import Blueprint, Intent, PipelineRecord
from coordinator.jobs import Jobs
from coordinator.membership import Membership
from coordinator.progress import Progress
from coordinator.publishing import Publishing
from coordinator.replies import Replies
from coordinator.requests import Requests
from coordinator.settings import Settings
from coordinator.state import State
from slicemq.errors import SliceMQError
from slicemq.messages import Assignment, Capacity, Heartbeat, NodeState, Report, Stamp
from slicemq.topics import Topics

# What looks at every node, for things that are due after a second or more, need not be done at every tick.
_SWEEP_SECONDS = 0.2


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
        state = State(topics, records, self.settings, self.members, unix_offset)
        self._state = state
        self.records = state.records
        self.situation = state.situation
        self.contingencies = state.contingencies
        self.rebalance = state.rebalance
        self.preship = state.preship
        self.started = False
        self.lazy = False
        self.wants_tick = False
        self._swept = -math.inf
        self.publishing = Publishing(state, instance, term)
        self.replies = Replies(state)
        self._jobs = Jobs(state, self.replies, self.publishing)
        self._requests = Requests(state, self.replies, self.publishing, self._jobs)
        self._idle = Idle(state, self._jobs)
        self._progress = Progress(state, self._jobs)

    @property
    def term(self) -> int:
        """This coordinator's term; before it has started, the highest that it knows of."""
        return self.publishing.term

    @property
    def published(self) -> Set[str]:
        """The topics of all documents that it keeps, but its own state."""
        return self.publishing.published.keys()

    # -- what is heard -------------------------------------------------------------------------------------

    def saw_term(self, term: int) -> None:
        """A term seen in a document or an echo: this coordinator's must exceed it (rule 21)."""
        if not self.started:
            self.publishing.term = max(self.term, term)

    def adopt(self, record: PipelineRecord) -> None:
        """Take over a pipeline that runs but is not in the store (rebuilt from retained documents)."""
        self.records.setdefault(record.name, record)

    def found_assignment(self, document: Assignment) -> None:
        """An assignment that stands there before the start: of an earlier coordinator, or an earlier life."""
        if not self.started:
            self.publishing.found_earlier(document)

    def start(self, now: float) -> list[Action]:
        """Begin to decide: the marker came back and a heartbeat deadline has passed (rule 23)."""
        self.publishing.term += 1
        self.started = True
        for record in self.records.values():
            for revision in record.revisions.values():
                self.publishing.address(revision.nodes)
        self._state.actions.append(Persist())
        return self.tick(now)

    def stamp(self) -> Stamp:
        """The next stamp of this coordinator."""
        return self.publishing.stamp()

    def on_node_state(self, now: float, document: NodeState) -> list[Action]:
        """A node's state or its will."""
        self.members.on_state(document)
        if self.members.waits_for_beat:
            self._state.actions.append(Listen())
        self._state.nodes_changed()
        return self._look(now)

    def on_capacity(self, now: float, document: Capacity) -> list[Action]:
        """A node's capacity."""
        known = self.members.node(document.node).capacity
        self.members.on_capacity(document)
        if known is None or _placement_view(known) != _placement_view(document):
            self._state.nodes_changed()
            return self._look(now)
        # Which files a node has matters for the plans that are made ahead.
        self.contingencies.disturb(now)
        return []

    def on_report(self, now: float, document: Report) -> list[Action]:
        """A node's report."""
        self.members.on_report(document)
        node = self.members.node(document.node)
        self._state.changed |= self._state.poison.heard(now, node.current_report)
        if self.situation.leftovers.reported(node.id, node.current_report):
            self._state.nodes_changed()
        return self._look(now)

    def on_heartbeat(self, now: float, beat: Heartbeat) -> list[Action]:
        """A node's heartbeat; most change nothing, so only a new life is looked at at once."""
        if beat.seen is not None:
            self.saw_term(beat.seen.term)
            if self.started:
                self.publishing.echoed(beat.seen.term)
        if self.started and self.situation.heard(now, beat):
            self._state.decided()
        if self.members.on_heartbeat(beat):
            self.publishing.address([beat.node])
            self._state.nodes_changed()
            return self._look(now)
        return []

    def on_own_beat(self, now: float) -> list[Action]:
        """The coordinator's own beat came back from the broker."""
        if self.members.on_own_beat(now):
            self._state.nodes_changed()
        return self._look(now)

    def on_disconnected(self) -> None:
        """The connection to the broker is down."""
        self.members.on_disconnected()

    def on_foreign(self, now: float, topic: str) -> list[Action]:
        """A retained document of the coordinator's kind that it does not know: clear it, or end it explicitly."""
        return self._follow(now, self.started and self.publishing.found(topic))

    # -- what is asked -------------------------------------------------------------------------------------

    def on_deploy(
        self, now: float, client: str, transaction: str, intent: Intent, policy: Policy | None = None
    ) -> list[Action]:
        """`deploy`: this model shall run under this name. Answered when its plan is made, or cannot be."""
        return self._follow(now, self._requests.deploy(now, (client, transaction), intent, policy))

    def on_rollout(
        self, now: float, client: str, transaction: str, name: str, action: RolloutAction, to: str = ""
    ) -> list[Action]:
        """`rollout`: hold the one under way, let it go on, end it well or go back (to the revision `to`)."""
        return self._follow(now, self._requests.rollout(now, (client, transaction), name, action, to))

    def on_evidence(self, now: float, testimony: Testimony) -> list[Action]:
        """A client says how the revisions beside each other do; judged at the next tick."""
        self._requests.evidence(testimony)
        return []

    def on_undeploy(self, now: float, client: str, transaction: str, name: str) -> list[Action]:
        """`undeploy`: the pipeline shall not run any more."""
        return self._follow(now, self._requests.undeploy(now, (client, transaction), name))

    def on_pin(
        self, now: float, client: str, transaction: str, name: str, slice_id: str, node: str
    ) -> list[Action]:
        """`pin`: this slice shall run on this node (empty: on any). A deploy with other options."""
        return self._follow(now, self._requests.pin(now, (client, transaction), name, slice_id, node))

    def on_upkeep(self, now: float, client: str, transaction: str, verb: str, node: str) -> list[Action]:
        """`drain`, `undrain` or `forget` a node. Answered at once; documents say how far it is."""
        return self._follow(now, self._requests.upkeep((client, transaction), verb, node))

    def on_refused(self, client: str, transaction: str, error: SliceMQError) -> list[Action]:
        """A request that could not be read."""
        self._requests.refused((client, transaction), error)
        return self._state.take()

    def on_attach(self, now: float, client: str, pipeline: str, attached: bool) -> list[Action]:
        """A client shares (or gives back) a part of a pipeline's window; it says so again every 10 s."""
        return self._follow(now, self._requests.attach(now, client, pipeline, attached))

    # -- what the shell answers ----------------------------------------------------------------------------

    def on_planned(self, now: float, job: int, blueprint: Blueprint) -> list[Action]:
        """A plan is made and its slices are stored: prepare a revision of it."""
        return self._follow(now, self._jobs.planned(now, job, blueprint))

    def on_plan_failed(self, now: float, job: int, error: SliceMQError) -> list[Action]:
        """No plan can be made now."""
        return self._follow(now, self._jobs.failed(now, job, error))

    def on_foreseen(self, now: float, job: int, blueprint: Blueprint) -> list[Action]:
        """A plan is made ahead."""
        self._idle.made(now, job, blueprint)
        return self.tick(now)

    def on_unforeseen(self, now: float, job: int, why: Unmade) -> list[Action]:
        """A plan ahead was not made."""
        self._idle.unmade(now, job, why)
        return self._follow(now, why is not Unmade.GIVEN_UP)

    def on_probed(self, now: float, pipeline: str, revision_id: str) -> list[Action]:
        """A probe frame has left every output of a revision (rule 11): flip, or begin its shadow or canary."""
        return self._follow(now, self._progress.probed(now, pipeline, revision_id))

    def on_probe_failed(self, now: float, pipeline: str, revision_id: str, why: str) -> list[Action]:
        """A probe frame came back with other results than its golden file has, or with errors: abandoned."""
        return self._follow(now, self._progress.probe_failed(now, pipeline, revision_id, why))

    # -- time ----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Move on whatever time or facts allow; returns all actions that have come up."""
        self.wants_tick = False
        if not self.started:
            return self._state.take()
        state = self._state
        self._progress.advance(now)
        self._jobs.begin(now)
        state.changed |= state.poison.expire(now)
        sweeps = state.changed or not 0.0 <= now - self._swept < _SWEEP_SECONDS
        if sweeps:
            self._swept = now
            self.publishing.clear_addresses(now)
        if state.changed:
            self.contingencies.disturb(now)
        self._idle.begin(now)
        if state.changed or (sweeps and self.publishing.waiting):
            state.changed = False
            self.publishing.flush(now)
        if sweeps:
            self.publishing.repeat_unseen(now)
        return state.take()

    def _look(self, now: float) -> list[Action]:
        """What an event leads to that comes from each of many nodes: with `lazy` one tick for many of them."""
        if not self.lazy:
            return self.tick(now)
        self.wants_tick = True
        return self._state.take()

    def _follow(self, now: float, due: bool) -> list[Action]:
        """The actions of an event; `due`: more may follow from it."""
        return self.tick(now) if due else self._state.take()


def _placement_view(capacity: Capacity) -> Capacity:
    """What of a capacity matters for placing slices (not which artifacts are cached)."""
    return dataclasses.replace(capacity, artifacts=())
