"""Files that nodes shall have before they are needed, and keep (protocol rule 12)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.actions import Publish
from coordinator.intents import Blueprint
from coordinator.preship import SHARE, Preship
from slicemq.messages import MOST_FILES, Artifact, Assignment, SliceAssignment
from tests.coordinator.site import MB, TOPICS, Board, Site, blueprint, capacity, intent, sha


def made(*nodes: str, model: str = "m1") -> Blueprint:
    return blueprint(intent(model=model), nodes)


def files(plan: Blueprint, node: str) -> list[str]:
    return [item.artifact.sha256 for item in plan.slices.get(node, ())]


def with_files(plan: Blueprint, node: str, *artifacts: Artifact) -> Blueprint:
    one = plan.slices[node][0]
    items: tuple[SliceAssignment, ...] = tuple(replace(one, artifact=artifact) for artifact in artifacts)
    return replace(plan, slices={**plan.slices, node: items})


CAPACITIES = {name: replace(capacity(name, "1"), cache=100 * MB) for name in ("n1", "n2", "n3")}


def test_each_node_is_told_the_files_of_all_plans_that_put_slices_there() -> None:
    preship = Preship(rate=600.0)
    first, second = made("n1", "n3"), made("n2", "n3", model="m2")
    assert preship.plan([first, second], {}, CAPACITIES)
    assert {one.sha256 for one in preship.of("n3").prefetch} == {*files(first, "n3"), *files(second, "n3")}
    assert [one.sha256 for one in preship.of("n1").prefetch] == files(first, "n1")
    assert {preship.of(name).rate for name in CAPACITIES} == {200.0}, "the rate is that of all together"
    assert not preship.plan([first, second], {}, CAPACITIES)


def test_what_more_losses_need_comes_first_and_small_files_first_among_equals() -> None:
    often, small, large = Artifact(sha("a"), 900), Artifact(sha("b"), 100), Artifact(sha("c"), 800)
    preship = Preship()
    preship.plan(
        [with_files(made("n1"), "n1", often, large), with_files(made("n1"), "n1", often, small)], {}, CAPACITIES
    )
    assert preship.of("n1").prefetch == (often, small, large)


def test_a_cache_is_filled_to_its_share_at_most_and_a_document_to_its_bound() -> None:
    big = [Artifact(sha(f"big{k}"), 20 * MB) for k in range(5)]
    preship = Preship()
    preship.plan([with_files(made("n1"), "n1", *big)], {}, CAPACITIES)
    assert sum(one.size for one in preship.of("n1").prefetch) <= SHARE * 100 * MB
    assert len(preship.of("n1").prefetch) == 2
    many = [Artifact(sha(f"many{k}"), 10) for k in range(300)]
    preship.plan([with_files(made("n1"), "n1", *many)], {}, CAPACITIES)
    assert len(preship.of("n1").prefetch) == MOST_FILES


def test_nodes_that_are_not_here_are_told_nothing() -> None:
    preship = Preship()
    preship.plan([made("n1", "n9")], {}, CAPACITIES)
    assert preship.nodes == {"n1"}


@pytest.fixture
def site() -> Site:
    site = Site(*(Board(name) for name in ("n1", "n2", "n3", "n4")))
    site.start()
    return site


def assignments(site: Site) -> int:
    return sum(isinstance(one, Publish) and isinstance(one.document, Assignment) for one in site.log)


def test_stand_ins_get_the_files_of_the_plans_made_ahead_once_all_are_made(site: Site) -> None:
    site.run("n1", "n2")
    before = assignments(site)
    site.wait(1.5)
    first = site.plan_ahead("n3", "n2")
    assert assignments(site) == before, "not one document for each plan"
    site.plan_ahead("n3", "n1")
    site.wait(1.5)
    document = site.assignment("n3")
    plans = [blueprint(first.plan.intent, nodes) for nodes in (("n3", "n2"), ("n3", "n1"))]
    assert {one.sha256 for one in document.prefetch} == {sha256 for plan in plans for sha256 in files(plan, "n3")}
    assert document.prefetch_rate > 0
    assert document.slices == ()
    assert site.assignment("n1").keep == (site.assignment("n1").slices[0].artifact.sha256,)
    told = assignments(site)
    site.obey()
    board = site.boards["n3"]
    have = replace(
        capacity("n3", board.epoch, board.memory), artifacts=tuple(one.sha256 for one in document.prefetch)
    )
    site.do(site.cluster.on_capacity(site.now, have))
    site.wait(25.0)
    assert assignments(site) == told, "what a node has by now changes no document"


def test_a_list_of_files_alone_neither_restarts_slices_nor_asks_for_plans(site: Site) -> None:
    site.deploy(intent())
    site.plan("n1", "n2")
    site.obey()
    site.pass_probes()
    slices = site.assignment("n1").slices
    record = site.record()
    site.foresee()
    site.wait(1.5)
    record.needs_nodes = True
    site.wait(12.0)
    assert site.assignment("n1").slices == slices
    assert record.needs_nodes
    assert site.routes() == {record.active.id: "active"} if record.active else False


def test_caches_keep_the_files_of_the_revision_before(site: Site) -> None:
    site.run("n1", "n2")
    site.foresee()
    site.wait(1.5)
    old = site.assignment("n1").slices[0].artifact.sha256
    site.deploy(intent(model="m2"))
    site.bring_up("n1", "n3")
    site.wait(40.0)
    site.foresee()
    site.wait(1.5)
    assert old in site.assignment("n1").keep
    assert site.retained[TOPICS.node("n2", "assignment")].keep != ()
