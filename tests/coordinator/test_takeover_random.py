"""Random lives of a cluster whose coordinators die before a standby has what they stored last (rules 1, 21, 24)."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, rule

from coordinator.adoption import adopt_running, catch_up, note_numbers
from slicemq.messages import encode
from tests.coordinator.site import TOPICS, Board, Site, capacity
from tests.coordinator.test_cluster_random import NODES, ClusterLife


class _Mirrored(Site):
    """Its standby lacks what was stored last."""

    mirror: tuple[dict[str, Any], int] = ({}, 0)

    def _persist(self) -> None:
        self.mirror = (self.stored, self.stored_term)
        super()._persist()


class TakeoverLife(ClusterLife):
    """As there, and a standby may take over at any time."""

    @initialize()
    def begin(self) -> None:
        self.site: _Mirrored = _Mirrored(*(Board(name) for name in NODES), read_back=False)
        self.site.start()

    @rule()
    def a_standby_takes_over(self) -> None:
        site = self.site
        retained = {topic: encode(document) for topic, document in site.retained.items()}
        highest = max((document.stamp.term for document in site.retained.values()), default=0)
        site.stored, site.stored_term = site.mirror
        site.restart_coordinator()
        site.cluster.saw_term(highest)
        records = site.cluster.records
        for record in adopt_running(TOPICS, retained, site.now):
            if record.name not in records:
                site.cluster.adopt(record)
            else:
                catch_up(records[record.name], record, 1e9)
        note_numbers(records, TOPICS, retained, site.now)
        served = {name: site.document(name) for name in records if TOPICS.pipeline(name) in site.retained}
        for board in site.boards.values():
            if board.running:
                site.do(site.cluster.on_node_state(site.now, board.state()))
                site.do(site.cluster.on_capacity(site.now, capacity(board.name, board.epoch)))
                site.do(site.cluster.on_report(site.now, board.report()))
                site.do(site.cluster.on_heartbeat(site.now, board.beat()))
        for name, document in served.items():
            active = {route.revision for route in document.routes if route.state == "active"}
            mine = records[name].active
            if active and records[name].removed_at is None:
                assert mine is not None
                assert mine.id in active, "what clients send to stays active"
        actions = site.cluster.start(site.now)
        for topic in list(site.retained):
            actions += site.cluster.on_foreign(site.now, topic)
        site.do(actions)
        # Who took over is mirrored before it is lost as well.
        site.mirror = (site.stored, site.stored_term)


TestTakeoverLife = TakeoverLife.TestCase
TestTakeoverLife.settings = settings(
    max_examples=int(os.environ.get("RANDOM_LIVES", "30")),
    stateful_step_count=40,
    derandomize="RANDOM_LIVES" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
