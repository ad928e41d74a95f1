"""Data brokers in the coordinator: what loses a revision, what is left out of plans, and old nodes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator import planning
from coordinator.intents import Blueprint
from coordinator.membership import SHUN_SECONDS
from coordinator.planner.model import PlanOptions
from coordinator.planner.plan import Plan
from slicemq.errors import PlanError
from slicemq.messages import Capacity
from tests.coordinator.site import Board, Site, blueprint, capacity, intent
from tests.coordinator.test_turns import job
from tests.planner.test_lanes import Row, body_of

URL = "mqtt://n2.local:1884"


def carried() -> Blueprint:
    """A slice on n1 and one on n2, whose bundle is on the data broker of n2."""
    made = blueprint(intent(), ["n1", "n2"])
    (first,), (second,) = made.slices.values()
    on_board = replace(second.inputs[0], broker="n2")
    return replace(
        made,
        slices={
            "n1": (replace(first, outputs=(on_board,), brokers={"n2": URL}),),
            "n2": (replace(second, inputs=(on_board,), brokers={"n2": URL}),),
        },
    )


def tell(site: Site, broker: str) -> None:
    """Node n2 publishes its capacity with this data broker."""
    board = site.boards["n2"]
    site.do(site.cluster.on_capacity(site.now, replace(capacity("n2", board.epoch), broker=broker)))


@pytest.fixture
def site() -> Site:
    """Three boards, the second with a data broker, and a coordinator that plans `faces`."""
    made = Site(Board("n1"), Board("n2"), Board("n3"))
    made.start()
    tell(made, URL)
    made.deploy(intent())
    return made


def prepared(site: Site) -> str:
    site.do(site.cluster.on_planned(site.now, site.jobs[-1].job, carried()))
    coming = site.record().coming
    assert coming is not None
    return coming.id


def runs(site: Site) -> str:
    name = prepared(site)
    site.obey()
    site.pass_probes()
    assert site.routes() == {name: "active"}
    return name


def brokers_of_job(site: Site) -> dict[str, str]:
    return {node.node: node.broker for node in site.jobs[-1].nodes}


def test_nodes_are_told_where_their_bundles_are(site: Site) -> None:
    assert brokers_of_job(site) == {"n1": "", "n2": URL, "n3": ""}
    runs(site)
    assert [site.assignment(node).slices[0].brokers for node in ("n1", "n2")] == [{"n2": URL}, {"n2": URL}]
    assert site.assignment("n1").slices[0].outputs[0].broker == "n2"


@pytest.mark.parametrize("broker", ["", "mqtt://n2.local:1999"])
def test_a_broker_that_is_withdrawn_or_moves_loses_the_revision(site: Site, broker: str) -> None:
    first, jobs = runs(site), len(site.jobs)
    tell(site, broker)
    assert site.routes() == {first: "lost"}
    assert f"its data broker {URL} does not answer" in site.record().status
    assert len(site.jobs) == jobs + 1
    assert brokers_of_job(site) == {"n1": "", "n2": broker, "n3": ""}
    assert site.jobs[-1].avoid == frozenset(), "the nodes themselves are well"


def test_a_broker_that_comes_and_goes_is_left_out_for_a_while(site: Site) -> None:
    runs(site)
    tell(site, "")
    tell(site, URL)
    site.bring_up("n1", "n3")
    site.deploy(intent(model="m2"))
    assert brokers_of_job(site)["n2"] == ""
    site.bring_up("n1", "n3")
    site.wait(SHUN_SECONDS + 1.0)
    site.deploy(intent(model="m3"))
    assert brokers_of_job(site)["n2"] == URL


def test_a_broker_that_is_withdrawn_ends_what_prepares_for_it(site: Site) -> None:
    prepared(site)
    tell(site, "")
    assert site.record().coming is None
    site.wait(0.5)
    assert brokers_of_job(site)["n2"] == ""


def test_a_slice_that_fails_first_costs_the_broker_then_the_node(site: Site) -> None:
    name = prepared(site)
    (key,) = site.record().revisions[name].keys("n1")
    site.boards["n1"].states[key] = "failed"
    site.do(site.cluster.on_report(site.now, site.boards["n1"].report()))
    site.wait(site.settings.retry_after + 1)
    assert brokers_of_job(site)["n2"] == ""
    assert site.jobs[-1].avoid == frozenset()


def test_a_link_that_stays_down_costs_the_broker_not_the_node(site: Site) -> None:
    first = runs(site)
    (key,) = site.record().revisions[first].keys("n1")
    site.boards["n1"].beats[key] = {"link": "down"}
    site.wait(8.0)
    assert site.routes()[first] == "lost"
    assert brokers_of_job(site)["n2"] == ""
    assert site.jobs[-1].avoid == frozenset()


# -- planning ----------------------------------------------------------------------------------------------

ROWS: tuple[Row, ...] = (((0, 1), {"n1": (0,)}), ((2, 3), {"n2": (0,)}))


def written(tmp_path: Path, among: tuple[Capacity, ...], *, asked: bool = True) -> planning.PlanningJob:
    """A job for a written plan whose second bundle is on the data broker of n2."""
    made = job(tmp_path, None, among)
    body: dict[str, Any] = {**body_of(*ROWS, turns=1), "model": made.intent.model.sha256}
    graph = planning.model_graph(str(tmp_path / "artifacts" / made.intent.model.sha256), made.tools, ())
    body.pop("bundles", None)
    plan = Plan.from_plain(body, graph=graph).to_plain()
    plan["bundles"][1]["broker"] = "n2"
    return replace(made, intent=replace(made.intent, plan=plan), asked=asked)


def boards(protocol: str = "1.3", broker: str = URL) -> tuple[Capacity, ...]:
    return tuple(
        replace(capacity(name, "1"), protocol=protocol, broker=broker if name == "n2" else "")
        for name in ("n1", "n2")
    )


def test_a_written_plan_takes_its_bundles_to_the_boards(tmp_path: Path) -> None:
    found = planning.run(written(tmp_path, boards()))
    (first,), (second,) = found.slices["n1"], found.slices["n2"]
    assert [bundle.broker for bundle in (*first.inputs, *first.outputs)] == ["", "n2"]
    assert first.brokers == second.brokers == {"n2": URL}
    assert not found.route.entry[0].broker


def test_a_written_plan_with_a_broker_that_is_not_there(tmp_path: Path) -> None:
    text = "the plan's bundle b1 is on the data broker of node n2, which has none that answers"
    with pytest.raises(PlanError, match=re.escape(text)):
        planning.run(written(tmp_path / "asked", boards(broker="")))
    found = planning.run(written(tmp_path / "later", boards(broker=""), asked=False))
    assert not found.slices["n1"][0].brokers, "what replaces a lost revision uses the main broker"


def test_old_nodes_keep_every_bundle_on_the_main_broker(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=re.escape("data brokers need 1.3")):
        planning.run(written(tmp_path, boards("1.2")))
    options = PlanOptions()
    assert planning._with_brokers_known(options, list(boards())).data_brokers == "auto"
    old = [*boards(), replace(capacity("n3", "1"), protocol="1.2")]
    assert planning._with_brokers_known(options, old).data_brokers == "never"
    without = replace(options, exclude=frozenset({"n3"}))
    assert planning._with_brokers_known(without, old).data_brokers == "auto"
