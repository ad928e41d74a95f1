"""Revisions of several turns in the coordinator: routes, deadlines, losses, and nodes that know no turns."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator import planning
from coordinator.artifacts import ArtifactStore
from coordinator.intents import Blueprint, Intent
from coordinator.planner.model import PlanOptions
from coordinator.planning import PlanningJob
from slicemq.errors import PlanError
from slicemq.messages import Artifact, Bundle, Capacity, Lane, Route
from tests.converters.tiny import chain
from tests.coordinator.site import SPEC_IN, Board, Site, blueprint, capacity, intent
from tests.planner.test_lanes import Row, body_of
from tests.planner.test_operators import TOOLS


def replicated(turns: int = 2) -> Blueprint:
    """A slice on n1, and one on n2 and n3 in turns."""
    made = blueprint(intent(), ["n1", "n2"])
    (first,), (second,) = made.slices.values()
    even, odd = tuple(range(0, turns, 2)), tuple(range(1, turns, 2))
    lane = Lane(tuple(range(turns)), (Bundle("b0", (SPEC_IN,)),), 1)
    return replace(
        made,
        route=Route("1-00000000", "active", 1.0, (), 0, turns, (lane,)),
        slices={
            "n1": (replace(first, turns=lane.turns, of=turns),),
            "n2": (replace(second, turns=even, of=turns),),
            "n3": (replace(second, turns=odd, of=turns),),
        },
    )


@pytest.fixture
def site() -> Site:
    """Four boards, all heard and ready, and a coordinator that plans `faces`."""
    made = Site(Board("n1"), Board("n2"), Board("n3"), Board("n4"))
    made.start()
    made.deploy(intent())
    return made


def planned(site: Site, made: Blueprint) -> None:
    site.do(site.cluster.on_planned(site.now, site.jobs[-1].job, made))


def test_replicas_are_prepared_probed_and_shown_to_clients(site: Site) -> None:
    planned(site, replicated())
    site.obey("n1")
    site.obey("n2")
    assert site.probing == set(), "a replica is missing"
    assert "s1 on n3" in site.record().status
    site.obey("n3")
    site.pass_probes()
    (route,) = site.document().routes
    assert (route.state, route.turns, route.parts) == ("active", 2, 0)
    assert [lane.turns for lane in route.lanes] == [(0, 1)]
    assert [site.assignment(node).slices[0].turns for node in ("n1", "n2", "n3")] == [(0, 1), (0,), (1,)]


def test_a_lost_replica_loses_the_revision(site: Site) -> None:
    planned(site, replicated())
    site.obey()
    site.pass_probes()
    first = site.record().active
    assert first is not None
    site.die("n3")
    assert site.routes() == {first.id: "lost"}
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n2", "n4"]
    site.bring_up("n1", "n2")
    assert [route.turns for route in site.document().routes] == [2, 1]


def test_turns_survive_a_restart_of_the_coordinator(site: Site) -> None:
    planned(site, replicated())
    site.obey()
    site.pass_probes()
    before = site.document()
    site.restart_coordinator()
    for board in site.boards.values():
        site.do(site.cluster.on_node_state(site.now, board.state()))
        site.do(site.cluster.on_capacity(site.now, capacity(board.name, board.epoch)))
        site.do(site.cluster.on_report(site.now, board.report()))
        site.do(site.cluster.on_heartbeat(site.now, board.beat()))
    site.do(site.cluster.start(site.now))
    assert site.document().routes == before.routes


@pytest.mark.parametrize(("turns", "rounds"), [(2, 1), (16, 1), (17, 2), (64, 4)])
def test_probing_takes_longer_with_many_turns(site: Site, turns: int, rounds: int) -> None:
    """Rule 11: as many are probed at the same time as one deadline is meant for."""
    planned(site, replicated(turns))
    site.obey()
    site.wait(rounds * site.settings.probe_most - 1)
    assert site.probing
    site.wait(2)
    assert "probing took longer" in site.record().status


# -- nodes of 1.1 ------------------------------------------------------------------------------------------


def nodes(**versions: str) -> tuple[Capacity, ...]:
    """Capacities of nodes that speak these versions."""
    return tuple(replace(capacity(name, "1"), protocol=version) for name, version in versions.items())


def job(folder: Path, plan: dict[str, Any] | None, among: tuple[Capacity, ...], **options: Any) -> PlanningJob:
    """A job for a chain of four operators."""
    (folder / "artifacts").mkdir(parents=True)
    artifact = ArtifactStore(folder / "artifacts").put(chain(4))
    return PlanningJob(Intent("faces", artifact, plan, options), among, frozenset(), folder, TOOLS)


ROWS: tuple[Row, ...] = (((0, 1), {"n1": (0, 1)}), ((2, 3), {"n2": (0,), "n3": (1,)}))


def test_a_written_plan_of_several_turns_is_cut_and_stored(tmp_path: Path) -> None:
    made = job(tmp_path, None, nodes(n1="1.2", n2="1.2", n3="1.10"))
    body = {**body_of(*ROWS, turns=2), "model": made.intent.model.sha256}
    found = planning.run(replace(made, intent=replace(made.intent, plan=body)))
    assert {node: [one.turns for one in mine] for node, mine in found.slices.items()} == {
        "n1": [(0, 1)],
        "n2": [(0,)],
        "n3": [(1,)],
    }
    stored: Artifact = found.slices["n3"][0].artifact
    assert (tmp_path / "artifacts" / stored.sha256).stat().st_size == stored.size


def test_a_written_plan_is_refused_on_nodes_that_know_no_turns(tmp_path: Path) -> None:
    made = job(tmp_path, None, nodes(n1="1.2", n2="1.2", n3="1.1"))
    body = {**body_of(*ROWS, turns=2), "model": made.intent.model.sha256}
    text = "the plan has 2 turns, and node n3 speaks version 1.1 of the protocol: turns need 1.2"
    with pytest.raises(PlanError, match=re.escape(text)):
        planning.run(replace(made, intent=replace(made.intent, plan=body)))


def test_plans_are_of_one_turn_while_a_node_knows_none() -> None:
    options = PlanOptions()
    old, new = list(nodes(n1="1.2", n2="1.1")), list(nodes(n1="1.2", n2="1.2"))
    assert planning._with_turns_known(options, new) is options
    assert planning._with_turns_known(options, old).shapes == ("one-node", "pipeline")
    without = replace(options, exclude=frozenset({"n2"}))
    assert planning._with_turns_known(without, old) is without
    one = replace(options, shapes=("replicas", "one-node"))
    assert planning._with_turns_known(one, old).shapes == ("one-node",)
    with pytest.raises(PlanError, match=r"field shape: copies: these need turns, and node n2"):
        planning._with_turns_known(replace(options, shapes=("copies",)), old)
