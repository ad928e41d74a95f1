"""A cluster without a broker: drives `Cluster` with documents and times, and carries out its actions in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from coordinator.actions import Action, Clear, MakePlan, Persist, PlanAhead, Probe, Publish, Respond, StopProbe
from coordinator.cluster import Cluster
from coordinator.contingency import Unmade
from coordinator.gate import Policy
from coordinator.intents import Blueprint, Intent, PipelineRecord
from coordinator.membership import Membership
from coordinator.rollout import MOST_KEPT
from coordinator.settings import Settings
from coordinator.store import _matters, _plain, _record
from slicemq.errors import InsufficientCapacityError
from slicemq.messages import (
    Artifact,
    Assignment,
    Bundle,
    Capacity,
    Heartbeat,
    Link,
    NodeState,
    PipelineDocument,
    Report,
    Response,
    ResultPart,
    Route,
    RuntimeInfo,
    SliceAssignment,
    SliceBeat,
    SliceReport,
    Stamp,
    TensorSpec,
    decode,
    encode,
)
from slicemq.topics import Topics

MB = 10**6
_ENDS = ("promoted", "rolled-back", "superseded", "refused")
SPEC_IN = TensorSpec(0, "input", "float32", (1, 4))
SPEC_MID = TensorSpec(7, "middle", "float32", (1, 8))
SPEC_OUT = TensorSpec(9, "output", "float32", (1, 2))
TOPICS = Topics("lab")


def sha(text: str) -> str:
    """A SHA-256 for a made-up file."""
    return hashlib.sha256(text.encode()).hexdigest()


def intent(name: str = "faces", model: str = "m1", **options: Any) -> Intent:
    """What a deploy of a made-up model asks for."""
    return Intent(name, Artifact(sha(model), 1000), None, options)


def capacity(node: str, epoch: str, memory: int = 100 * MB, worker: int = 10 * MB) -> Capacity:
    """The capacity of a made-up board."""
    return Capacity(
        node, epoch, "0", "x86_64", 1.0, 1, memory, worker, RuntimeInfo("ai_edge_litert", "2"), {"conv": 1.0}, LINK
    )


LINK = Link(1e6, 1e6, 0.001)


def blueprint(wanted: Intent, nodes: Iterable[str], memory: int = 20 * MB, stage: float = 0.01) -> Blueprint:
    """A chain of one slice per node, as planning would make it."""
    nodes = list(nodes)
    digest = sha(f"{wanted.model.sha256} {wanted.options} {nodes}")
    slices: dict[str, tuple[SliceAssignment, ...]] = {}
    for number, node in enumerate(nodes):
        last = number == len(nodes) - 1
        slices[node] = (
            SliceAssignment(
                pipeline=wanted.name,
                revision="1-00000000",
                slice=f"s{number}",
                artifact=Artifact(sha(f"{digest} {number}"), 500),
                memory=memory,
                takes=(0,) if number == 0 else (7,),
                gives=(9,) if last else (7,),
                inputs=(Bundle(f"b{number}", (SPEC_IN if number == 0 else SPEC_MID,)),),
                outputs=() if last else (Bundle(f"b{number + 1}", (SPEC_MID,)),),
                result=ResultPart(0, 1, (SPEC_OUT,)) if last else None,
            ),
        )
    return Blueprint(
        digest=digest,
        plan={"slices": [{"id": f"s{k}", "nodes": [node], "operators": [k]} for k, node in enumerate(nodes)]},
        slices=slices,
        route=Route("1-00000000", "active", 1.0, (Bundle("b0", (SPEC_IN,)),), 1),
        inputs=(SPEC_IN,),
        outputs=(SPEC_OUT,),
        spec=sha("spec"),
        window=4,
        stage_seconds={f"s{number}": stage for number in range(len(nodes))},
    )


class Board:
    """A made-up node: says what a real one would, when told to."""

    def __init__(self, name: str, memory: int = 100 * MB) -> None:
        self.name = name
        self.memory = memory
        self.life = 0
        self.counter = 0
        self.running = False
        self.states: dict[tuple[str, str, str], str] = {}
        self.beats: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.seen: Stamp | None = None

    @property
    def epoch(self) -> str:
        """This life's epoch."""
        return f"{self.name}-life-{self.life}"

    def beat(self) -> Heartbeat:
        """The next heartbeat."""
        self.counter += 1
        slices = tuple(
            SliceBeat(*key, **{"link": "up", **self.beats.get(key, {})})
            for key, state in self.states.items()
            if state == "ready"
        )
        return Heartbeat(self.name, self.epoch, self.counter, 0.1, 0, slices, self.seen)

    def report(self) -> Report:
        """The report as it stands."""
        self.counter += 1
        slices = tuple(SliceReport(*key, state) for key, state in self.states.items())  # type: ignore[arg-type]
        return Report(self.name, self.epoch, self.counter, slices, self.seen)

    def state(self, word: Any = "ready") -> NodeState:
        """The state document."""
        return NodeState(self.name, word, self.epoch)


class Site:
    """A coordinator's core, boards, and the broker's retained topics; `checks` assert what must always hold."""

    def __init__(self, *boards: Board, settings: Settings | None = None, read_back: bool = True) -> None:
        self.read_back = read_back
        self.now = 1000.0
        self.settings = settings or Settings()
        self.boards = {board.name: board for board in boards}
        self.retained: dict[str, Any] = {}
        self.log: list[Action] = []
        self.answers: list[Response] = []
        self.jobs: list[MakePlan] = []
        self.ahead: list[PlanAhead] = []
        self.probing: set[tuple[str, str]] = set()
        self.probes: list[Probe] = []
        self.stored: dict[str, PipelineRecord] = {}
        self.stored_term = 0
        self.highest: dict[str, int] = {}
        self.ever: set[tuple[str, str]] = set()
        self.gone: set[tuple[str, str]] = set()
        self.stamps: dict[str, Stamp] = {}
        self.transactions = 0
        self.deaf: set[str] = set()
        self.cluster = Cluster(TOPICS, instance="a" * 16, settings=self.settings, members=Membership())

    # -- time and boards -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Boot every board, let it be heard, and begin to decide."""
        for board in self.boards.values():
            self.boot(board.name)
        self.do(self.cluster.on_own_beat(self.now))
        self.do(self.cluster.start(self.now))

    def boot(self, name: str) -> None:
        """A board begins a life."""
        board = self.boards[name]
        board.life += 1
        board.running = True
        board.states.clear()
        board.beats.clear()
        board.seen = None
        self.do(self.cluster.on_node_state(self.now, board.state("init")))
        self.do(self.cluster.on_capacity(self.now, capacity(name, board.epoch, board.memory)))
        self.do(self.cluster.on_report(self.now, board.report()))
        self.do(self.cluster.on_heartbeat(self.now, board.beat()))
        self.do(self.cluster.on_node_state(self.now, board.state("ready")))
        self.obey()

    def wait(self, seconds: float, *, beats: bool = True, heartbeats: bool = True) -> None:
        """Let time pass in steps of a beat; running boards obey and are heard."""
        steps = max(1, round(seconds / 0.25))
        for _ in range(steps):
            self.now += seconds / steps
            if heartbeats:
                for board in self.boards.values():
                    if board.running:
                        self.do(self.cluster.on_heartbeat(self.now, board.beat()))
            if beats:
                self.do(self.cluster.on_own_beat(self.now))
            self.do(self.cluster.tick(self.now))

    def die(self, name: str, *, by_will: bool = True) -> None:
        """A board dies: its will comes, or silence only."""
        board = self.boards[name]
        board.running = False
        if by_will:
            self.do(self.cluster.on_node_state(self.now, board.state("lost")))
            self.do(self.cluster.on_own_beat(self.now))

    def obey(self, *names: str, to: str = "ready") -> None:
        """Running boards take over their assignments and report every slice as `to`."""
        for name in names or tuple(self.boards):
            board = self.boards[name]
            document = self.retained.get(TOPICS.node(name, "assignment"))
            if not board.running or document is None or name in self.deaf:
                continue
            keys = [(item.pipeline, item.revision, item.slice) for item in document.slices]
            states = {key: board.states.get(key) or to for key in keys}
            if to == "ready":
                states = dict.fromkeys(keys, "ready")
            if states != board.states or board.seen != document.stamp:
                board.states, board.seen = states, document.stamp
                self.do(self.cluster.on_report(self.now, board.report()))

    def report(self, name: str, slice_id: str, state: str, reason: str = "") -> None:
        """A board says how one of its slices is."""
        board = self.boards[name]
        for key in board.states:
            if key[2] == slice_id:
                board.states[key] = state
        document = board.report()
        entries = tuple(
            SliceReport(e.pipeline, e.revision, e.slice, e.state, reason if e.slice == slice_id else "")
            for e in document.slices
        )
        self.do(
            self.cluster.on_report(
                self.now, Report(document.node, document.epoch, document.counter, entries, document.seen)
            )
        )

    # -- requests and answers ------------------------------------------------------------------------------

    def deploy(self, wanted: Intent, transaction: str | None = None, policy: Policy | None = None) -> str:
        """Ask for a pipeline; returns the transaction."""
        self.transactions += 1
        name = transaction or f"t{self.transactions}"
        self.do(self.cluster.on_deploy(self.now, "cli", name, wanted, policy))
        return name

    def undeploy(self, name: str) -> None:
        """Ask for a pipeline's end."""
        self.transactions += 1
        self.do(self.cluster.on_undeploy(self.now, "cli", f"t{self.transactions}", name))

    def plan(self, *nodes: str, **options: Any) -> None:
        """Answer the latest planning job with a chain on `nodes`."""
        job = self.jobs[-1]
        self.do(self.cluster.on_planned(self.now, job.job, blueprint(job.intent, nodes, **options)))

    def short(self, text: str = "needs more") -> None:
        """No plan fits: not beside what serves, and not in its place."""
        first = self.jobs[-1].job
        self.do(self.cluster.on_plan_failed(self.now, first, InsufficientCapacityError(text)))
        instead = self.jobs[-1]
        waiting = [record.job_wish for record in self.cluster.records.values() if record.job == instead.job]
        if instead.job != first and waiting[0] is not None and waiting[0].room:
            self.do(self.cluster.on_plan_failed(self.now, instead.job, InsufficientCapacityError(text)))

    def plan_ahead(self, *nodes: str) -> PlanAhead:
        """Answer the latest plan ahead with a chain on `nodes` (none: there is no plan)."""
        action = self.ahead[-1]
        if nodes:
            made = blueprint(action.plan.intent, nodes)
            self.do(self.cluster.on_foreseen(self.now, action.plan.job, made))
        else:
            self.not_ahead(Unmade.NONE)
        return action

    def not_ahead(self, why: Unmade) -> None:
        """The latest plan ahead was not made."""
        self.do(self.cluster.on_unforeseen(self.now, self.ahead[-1].plan.job, why))

    def foresee(self, count: int = 2) -> None:
        """Let time pass, and make every plan ahead a chain on the first `count` of its nodes."""
        self.wait(1.5)
        while self.cluster.contingencies.under_way:
            self.plan_ahead(*[node.node for node in self.ahead[-1].plan.nodes][:count])

    def pass_probes(self) -> None:
        """Every probe frame comes out."""
        for name, revision in sorted(self.probing):
            self.do(self.cluster.on_probed(self.now, name, revision))

    def run(self, *nodes: str, name: str = "faces", **options: Any) -> str:
        """Deploy and bring to active; returns the revision."""
        self.deploy(intent(name, **options))
        return self.bring_up(*nodes, name=name)

    def bring_up(self, *nodes: str, name: str = "faces") -> str:
        """From a planning job to an active revision on `nodes`; returns it."""
        self.plan(*nodes)
        self.obey()
        self.pass_probes()
        self.obey()
        active = self.record(name).active
        assert active is not None
        assert active.nodes == set(nodes)
        return active.id

    def record(self, name: str = "faces") -> PipelineRecord:
        """The core's record of a pipeline."""
        return self.cluster.records[name]

    def document(self, name: str = "faces") -> PipelineDocument:
        """The retained document of a pipeline."""
        found = self.retained[TOPICS.pipeline(name)]
        assert isinstance(found, PipelineDocument)
        return found

    def assignment(self, node: str) -> Assignment:
        """The retained assignment of a node."""
        found = self.retained[TOPICS.node(node, "assignment")]
        assert isinstance(found, Assignment)
        return found

    def assigned(self, node: str) -> list[str]:
        """`<revision>/<slice>` of everything that a node shall run."""
        return [f"{item.revision}/{item.slice}" for item in self.assignment(node).slices]

    def routes(self, name: str = "faces") -> dict[str, str]:
        """revision -> state, as clients see it."""
        return {route.revision: route.state for route in self.document(name).routes}

    def restart_coordinator(self) -> None:
        """A new coordinator starts from the store."""
        self.cluster = Cluster(
            TOPICS,
            instance="b" * 16,
            records=[
                _record(json.loads(json.dumps(_plain(r))), self.now) for r in self.stored.values() if _matters(r)
            ],
            term=self.stored_term,
            settings=self.settings,
        )
        self.jobs.clear()
        self.ahead.clear()
        self.probing.clear()
        for document in self.retained.values():
            if isinstance(document, Assignment):
                self.cluster.found_assignment(document)
        self.do(self.cluster.on_own_beat(self.now))

    # -- carrying out --------------------------------------------------------------------------------------

    def do(self, actions: Iterable[Action]) -> None:
        """Carry out actions as the shell does."""
        for action in actions:
            self.log.append(action)
            match action:
                case Persist():
                    self._persist()
                case Publish(topic, document):
                    self._check_publish(topic, document)
                    self.retained[topic] = document
                case Clear(topic):
                    self.retained.pop(topic, None)
                case Respond(_, response):
                    self.answers.append(response)
                case MakePlan():
                    self.jobs.append(action)
                case PlanAhead():
                    self.ahead.append(action)
                case Probe(pipeline=name, revision=revision):
                    assert (name, revision) not in self.probing
                    self.probing.add((name, revision))
                    self.probes.append(action)
                case StopProbe(name, revision):
                    self.probing.discard((name, revision))
        self.check()

    def _persist(self) -> None:
        self.stored = {
            name: replace(record, revisions={key: replace(value) for key, value in record.revisions.items()})
            for name, record in self.cluster.records.items()
        }
        self.stored_term = self.cluster.term

    def _check_publish(self, topic: str, document: Any) -> None:
        assert not self.read_back or decode(type(document), encode(document), topic) == document
        assert self.cluster.started
        assert document.stamp.term == self.stored_term, "a term is stored before it is used (rule 21)"
        last = self.stamps.get(topic)
        repeated = topic in self.retained and self.retained[topic] == document
        assert last is None or document.stamp > last or repeated, "stamps rise (rule 21)"
        self.stamps[topic] = document.stamp
        if isinstance(document, PipelineDocument):
            stored = self.stored[document.name]
            for route in document.routes:
                phase = stored.revisions[route.revision].phase
                assert route.state == ("active" if phase == "canary" else phase), (
                    "stored before published (rule 24)"
                )
                key = (document.name, route.revision)
                assert not (route.state == "active" and key in self.gone), "a lost route never comes back"
                if route.state != "active":
                    self.gone.add(key)
            assert stored.resend >= document.resend
        if isinstance(document, Assignment):
            for item in document.slices:
                number = int(item.revision.partition("-")[0])
                assert number <= self.stored[item.pipeline].highest, "n is stored before it is used (rule 1)"

    def check(self) -> None:
        """What must hold after every event."""
        for record in self.cluster.records.values():
            assert len(record.in_phase("active")) <= 1
            assert len(record.in_phase("waiting", "preparing", "probing")) <= 1, "rule 12"
            self._check_rollouts(record)
            for revision in record.revisions.values():
                if (record.name, revision.id) not in self.ever:
                    number = int(revision.id.partition("-")[0])
                    assert number > self.highest.get(record.name, 0), "no n is used twice (rule 1)"
                    self.highest[record.name] = number
                    self.ever.add((record.name, revision.id))
                if record.removed_at is None and revision.phase == "probing":
                    assert (record.name, revision.id) in self.probing
        for name, revision_id in self.probing:
            probed = self.cluster.records[name].revisions.get(revision_id)
            assert probed is not None
            assert probed.phase == "probing"
        assert sum(record.job is not None for record in self.cluster.records.values()) <= 1
        if self.cluster.started:
            self._check_documents()

    def _check_weights(self, document: PipelineDocument) -> None:
        weights = sorted(route.weight for route in document.routes if route.state == "active")
        assert len(weights) <= 2
        assert not weights or abs(sum(weights) - 1.0) < 1e-9
        assert len(weights) < 2 or 0.0 < weights[0] < weights[1], "one of two serves more frames"
        assert document.shadow is None or len(weights) == 1
        assert all(route.weight == 0.0 for route in document.routes if route.state != "active")

    def _check_rollouts(self, record: PipelineRecord) -> None:
        beside = record.in_phase("canary", "shadow")
        assert len(beside) <= 1
        rollout = record.rollout
        assert all(rollout is not None and rollout.revision == one.id for one in beside)
        assert rollout is None or (rollout.ended == 0.0 and rollout.state not in _ENDS)
        assert all(one.state in _ENDS and one.ended > 0.0 for one in record.history)
        assert len(record.history) <= MOST_KEPT
        # A rollout ends once; what only waited for its plan has no revision.
        named = [one.revision for one in (*record.history, *([rollout] if rollout else [])) if one.revision]
        assert len(named) == len(set(named))
        if self.cluster.started and beside:
            assert record.active is not None, "what served serves until its candidate is promoted"

    def _check_documents(self) -> None:
        wanted: dict[str, set[str]] = {}
        for record in self.cluster.records.values():
            document = self.retained.get(TOPICS.pipeline(record.name))
            if document is not None:
                self._check_weights(document)
                assert (document.state == "running") == any(r.state == "active" for r in document.routes)
            for revision in record.revisions.values():
                if record.removed_at is None and revision.phase not in ("lost", "waiting"):
                    for node, items in revision.blueprint.slices.items():
                        wanted.setdefault(node, set()).update(
                            f"{revision.id}/{i.pipeline}/{i.slice}" for i in items
                        )
        for topic, document in self.retained.items():
            if isinstance(document, Assignment):
                found = {f"{i.revision}/{i.pipeline}/{i.slice}" for i in document.slices}
                assert found == wanted.pop(document.node, set()), topic
        assert not wanted, "every slice of a live revision stands in its node's assignment"
