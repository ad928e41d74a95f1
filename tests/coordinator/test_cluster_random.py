"""Random lives of a cluster; `Site` checks the invariants after every event."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from coordinator.asked import ROLLOUT_ACTIONS, RolloutAction
from coordinator.contingency import Unmade
from coordinator.gate import Policy, read_testimony
from slicemq.errors import InsufficientCapacityError, ModelError
from slicemq.messages import Heartbeat
from tests.coordinator.site import TOPICS, Board, Site, blueprint, capacity, intent

NODES = ("n1", "n2", "n3", "n4")
node_names = st.sampled_from(NODES)
pipelines = st.sampled_from(("faces", "birds"))
POLICIES = (
    None,
    Policy(canary=0.1, deadline=60.0),
    Policy(shadow=1.0, canary=0.4, frames=5, seconds=1.0),
    Policy(canary=0.2, frames=5, promote="manual"),
)
chains = st.lists(node_names, min_size=1, max_size=3, unique=True)


class ClusterLife(RuleBasedStateMachine):
    """Anything may happen at any time."""

    @initialize(late=st.booleans())
    def begin(self, late: bool) -> None:
        self.site = Site(*(Board(name) for name in NODES), read_back=False)
        if late:
            self.site.boot("n1")
        else:
            self.site.start()

    @rule(seconds=st.sampled_from((0.05, 0.5, 2.0, 7.0, 40.0)))
    def time_passes(self, seconds: float) -> None:
        self.site.wait(seconds)

    @rule(seconds=st.sampled_from((1.0, 10.0)), beats=st.booleans(), heartbeats=st.booleans())
    def something_hangs(self, seconds: float, beats: bool, heartbeats: bool) -> None:
        self.site.wait(seconds, beats=beats, heartbeats=heartbeats)

    @rule()
    def the_coordinator_starts(self) -> None:
        if not self.site.cluster.started:
            self.site.do(self.site.cluster.start(self.site.now))

    @rule()
    def the_connection_is_lost(self) -> None:
        self.site.cluster.on_disconnected()

    @rule()
    def the_coordinator_restarts(self) -> None:
        self.site.restart_coordinator()
        for board in self.site.boards.values():
            if board.running:
                self.site.do(self.site.cluster.on_node_state(self.site.now, board.state()))
                self.site.do(self.site.cluster.on_capacity(self.site.now, capacity(board.name, board.epoch)))
                self.site.do(self.site.cluster.on_report(self.site.now, board.report()))
                self.site.do(self.site.cluster.on_heartbeat(self.site.now, board.beat()))
        actions = self.site.cluster.start(self.site.now)
        for topic in list(self.site.retained):
            actions += self.site.cluster.on_foreign(self.site.now, topic)
        self.site.do(actions)

    @rule(name=node_names, by_will=st.booleans())
    def a_node_dies(self, name: str, by_will: bool) -> None:
        self.site.die(name, by_will=by_will)

    @rule(name=node_names)
    def a_node_boots(self, name: str) -> None:
        self.site.boot(name)

    @rule(name=node_names, word=st.sampled_from(("init", "ready", "draining", "disconnected", "lost")))
    def a_state_comes(self, name: str, word: Any) -> None:
        self.site.do(self.site.cluster.on_node_state(self.site.now, self.site.boards[name].state(word)))

    @rule(name=node_names, life=st.integers(0, 3))
    def a_straggler_comes(self, name: str, life: int) -> None:
        beat = Heartbeat(name, f"{name}-life-{life}", 1, 0.0, 0)
        self.site.do(self.site.cluster.on_heartbeat(self.site.now, beat))

    @rule(name=node_names)
    def a_node_obeys(self, name: str) -> None:
        self.site.obey(name)

    @rule()
    def all_obey(self) -> None:
        self.site.obey()

    @rule(name=node_names, number=st.integers(0, 2), state=st.sampled_from(("loading", "failed", "ready")))
    def a_slice_changes(self, name: str, number: int, state: str) -> None:
        self.site.report(name, f"s{number}", state, "because")

    @rule(name=node_names, frames=st.integers(0, 3), waiting=st.sampled_from((0.0, 1.0)), up=st.booleans())
    def figures_change(self, name: str, frames: int, waiting: float, up: bool) -> None:
        board = self.site.boards[name]
        for key in board.states:
            board.beats[key] = {"frames": frames, "waiting": waiting, "link": "up" if up else "down"}

    @precondition(lambda self: self.site.cluster.started)
    @rule(
        name=pipelines, model=st.sampled_from(("m1", "m2")), repeat=st.booleans(), policy=st.sampled_from(POLICIES)
    )
    def deploy(self, name: str, model: str, repeat: bool, policy: Policy | None) -> None:
        transaction = self.site.deploy(intent(name, model), policy=policy)
        if repeat:
            self.site.deploy(intent(name, model), transaction, policy)

    @precondition(lambda self: self.site.cluster.started)
    @rule(name=pipelines, action=st.sampled_from(ROLLOUT_ACTIONS), back=st.integers(0, 3))
    def a_rollout_is_asked(self, name: str, action: RolloutAction, back: int) -> None:
        record = self.site.cluster.records.get(name)
        known = ["", *(one.revision for one in record.history[-back:])] if record is not None and back else [""]
        to = known[-1] if action == "rollback" else ""
        self.site.transactions += 1
        self.site.do(
            self.site.cluster.on_rollout(self.site.now, "cli", f"t{self.site.transactions}", name, action, to)
        )

    @rule(name=pipelines, answered=st.sampled_from((0, 5, 200)), failed=st.sampled_from((0, 50)))
    def a_client_tells(self, name: str, answered: int, failed: int) -> None:
        record = self.site.cluster.records.get(name)
        ids = list(record.revisions)[-4:] if record is not None else []
        entry = {"answered": answered, "failed": failed, "p95_ms": 5.0}
        shadow = {"revision": ids[-1], "compared": answered, "failed": failed} if ids else None
        body = {"pipeline": name, "figures": dict.fromkeys(ids, entry), "shadow": shadow}
        self.site.do(self.site.cluster.on_evidence(self.site.now, read_testimony("cam-1", body, "evidence")))

    @rule()
    def golden_results_differ(self) -> None:
        for name, revision in sorted(self.site.probing):
            self.site.do(self.site.cluster.on_probe_failed(self.site.now, name, revision, "it differs"))

    @precondition(lambda self: self.site.cluster.started)
    @rule(name=pipelines)
    def undeploy(self, name: str) -> None:
        self.site.undeploy(name)

    @precondition(lambda self: self.site.cluster.started)
    @rule(name=node_names, verb=st.sampled_from(("drain", "undrain", "forget")))
    def a_nodes_upkeep(self, name: str, verb: str) -> None:
        self.site.transactions += 1
        self.site.do(self.site.cluster.on_upkeep(self.site.now, "cli", f"u{self.site.transactions}", verb, name))

    @precondition(lambda self: self.site.cluster.started)
    @rule(name=pipelines, slice_id=st.sampled_from(("s0", "0-3", "x")), node=st.sampled_from((*NODES, "")))
    def a_slice_is_pinned(self, name: str, slice_id: str, node: str) -> None:
        self.site.transactions += 1
        transaction = f"p{self.site.transactions}"
        self.site.do(self.site.cluster.on_pin(self.site.now, "cli", transaction, name, slice_id, node))

    @rule(name=pipelines, client=st.sampled_from(("c1", "c2")), attached=st.booleans())
    def a_client_attaches(self, name: str, client: str, attached: bool) -> None:
        self.site.do(self.site.cluster.on_attach(self.site.now, client, name, attached))

    @precondition(lambda self: self.site.jobs)
    @rule(nodes=chains, which=st.integers(-3, -1))
    def a_plan_is_made(self, nodes: list[str], which: int) -> None:
        job = self.site.jobs[max(which, -len(self.site.jobs))]
        made = blueprint(job.intent, nodes)
        self.site.do(self.site.cluster.on_planned(self.site.now, job.job, made))

    @precondition(lambda self: self.site.jobs)
    @rule(short=st.booleans())
    def planning_fails(self, short: bool) -> None:
        error = InsufficientCapacityError("need more") if short else ModelError("damaged")
        self.site.do(self.site.cluster.on_plan_failed(self.site.now, self.site.jobs[-1].job, error))

    @precondition(lambda self: self.site.ahead)
    @rule(outcome=st.one_of(chains, st.sampled_from(Unmade)), which=st.integers(-3, -1))
    def a_plan_ahead_ends(self, outcome: list[str] | Unmade, which: int) -> None:
        plan, cluster = self.site.ahead[max(which, -len(self.site.ahead))].plan, self.site.cluster
        if isinstance(outcome, Unmade):
            self.site.do(cluster.on_unforeseen(self.site.now, plan.job, outcome))
        else:
            self.site.do(cluster.on_foreseen(self.site.now, plan.job, blueprint(plan.intent, outcome)))

    @rule()
    def probes_pass(self) -> None:
        self.site.pass_probes()

    @rule(
        topic=st.sampled_from(
            ("pipelines/faces", "pipelines/ghost/plan", "nodes/n1/assignment", "nodes/x/assignment")
        )
    )
    def something_foreign_is_found(self, topic: str) -> None:
        self.site.do(self.site.cluster.on_foreign(self.site.now, f"{TOPICS.prefix}/{topic}"))

    def teardown(self) -> None:
        """From anywhere, a healthy cluster brings every pipeline back (or ends it)."""
        site = self.site
        if not site.cluster.started:
            site.do(site.cluster.start(site.now))
        for name, board in site.boards.items():
            if not board.running:
                site.boot(name)
            board.beats.clear()
        for name in NODES:
            site.do(site.cluster.on_upkeep(site.now, "cli", f"end-{name}", "undrain", name))
        for _ in range(12):
            site.wait(2.0)
            for name, board in site.boards.items():
                site.do(site.cluster.on_node_state(site.now, board.state()))
                node = site.cluster.members.node(name)
                if node.alive and node.epoch != board.epoch:
                    continue
                site.obey(name)
            for job in site.jobs[-2:]:
                site.do(site.cluster.on_planned(site.now, job.job, blueprint(job.intent, ("n1", "n2"))))
            site.obey()
            for name in [name for name, record in site.cluster.records.items() if record.rollout is not None]:
                site.transactions += 1
                site.do(site.cluster.on_rollout(site.now, "cli", f"t{site.transactions}", name, "resume"))
            site.pass_probes()
        for record in site.cluster.records.values():
            # What was refused at first has nothing to come back to.
            ended = record.removed_at is not None or record.intent is None
            assert ended or record.active is not None, record.status


TestClusterLife = ClusterLife.TestCase
TestClusterLife.settings = settings(
    max_examples=int(os.environ.get("RANDOM_LIVES", "60")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
