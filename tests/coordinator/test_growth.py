"""What a coordinator keeps and publishes does not grow with revisions, clients, nodes and requests."""

from __future__ import annotations

import json

from coordinator.actions import Clear, Publish
from coordinator.contingency import Unmade
from coordinator.leftovers import Leftovers
from coordinator.lifecycle import MOST_LOST
from coordinator.replies import REMEMBERED
from coordinator.requests import MOST_CLIENTS
from coordinator.rollout import MOST_KEPT
from coordinator.store import _plain
from tests.coordinator.site import TOPICS, Board, Site, blueprint, intent


def sizes(site: Site) -> dict[str, int]:
    """How much there is of everything that could grow, in a cluster at rest."""
    cluster = site.cluster
    situation = cluster.situation
    # The history is bounded by itself, and not full yet after five.
    stored = json.dumps([{**_plain(record), "history": []} for record in cluster.records.values()])
    return {
        "retained": len(site.retained),
        "published": len(cluster.published),
        "sent": len(cluster.publishing.sent),
        "addressed": len(cluster.publishing.addressed),
        "records": len(cluster.records),
        "revisions": sum(len(record.revisions) for record in cluster.records.values()),
        "clients": sum(len(record.clients) for record in cluster.records.values()),
        "stored KB": len(stored) // 1000,
        "contingencies": len(cluster.contingencies._ready) + len(cluster.contingencies._failed),
        "compared": len(cluster.rebalance._seen) + len(cluster.rebalance._compared),
        "leftovers": len(situation.leftovers._nodes),
        "members": len(cluster.members.nodes),
    }


def rest(site: Site) -> None:
    """Until nothing is on its way any more."""
    for _ in range(6):
        site.wait(site.settings.lost_shown / 3)
        for record in site.cluster.records.values():
            if record.job is not None:
                site.plan("n1", "n2")
                site.obey()
                site.pass_probes()
        while site.cluster.contingencies.under_way or site.cluster.rebalance.under_way:
            site.not_ahead(Unmade.NONE)
        site.obey()


def upgrade(site: Site, number: int) -> None:
    """One change of a pipeline: a new version, every fifth one broken, every seventh with a loss and a return."""
    site.deploy(intent(model=f"m{number % 2}", turn=number))
    site.plan("n1", "n2") if number % 2 else site.plan("n2", "n3")
    site.obey()
    if number % 5 == 0:
        site.report("n2", "s0", "failed", "broken on purpose")
        site.report("n2", "s1", "failed", "broken on purpose")
        site.wait(2 * site.settings.retry_after * 2**site.settings.retry_doublings / 16)
    site.pass_probes()
    site.do(site.cluster.on_attach(site.now, f"client-{number}", "faces", True))
    if number % 7 == 0:
        site.die("n2")
        site.boot("n2")
        for _ in range(3):
            if site.record().active is None and site.jobs and site.record().job is not None:
                site.plan("n1", "n3")
            site.obey()
            site.pass_probes()
            site.wait(1.0)
    site.wait(site.settings.drain_quiet + 0.5)
    site.obey()


def test_200_revisions_leave_what_5_left() -> None:
    """Topics, records and the store are what they were (rule 14: what has drained is gone)."""
    site = Site(Board("n1"), Board("n2"), Board("n3"), read_back=False)
    site.start()
    site.deploy(intent(model="m0"))
    site.bring_up("n1", "n2")
    for number in range(1, 6):
        upgrade(site, number)
    rest(site)
    before = sizes(site)
    for number in range(6, 201):
        upgrade(site, number)
        site.log.clear()
        assert len(site.record().in_phase("lost")) <= MOST_LOST
        assert len(site.record().history) <= MOST_KEPT
    rest(site)
    assert site.record().highest >= 150
    after = sizes(site)
    assert {key: (before[key], after[key]) for key in before if after[key] > before[key] + 1} == {}
    assert after["retained"] == before["retained"]
    assert after["revisions"] == before["revisions"] == 1
    assert len(site.cluster.replies.given) <= REMEMBERED


def test_published_minus_cleared_is_what_stands() -> None:
    site = Site(Board("n1"), Board("n2"), Board("n3"))
    site.start()
    for number in range(12):
        site.deploy(intent(f"p{number % 3}", model=f"m{number}"))
        site.plan("n1", "n2")
        site.obey()
        site.pass_probes()
        site.undeploy(f"p{number % 3}")
        site.wait(site.settings.removed_shown + 1.0)
    rest(site)
    topics = {action.topic for action in site.log if isinstance(action, Publish)}
    standing = set()
    for action in site.log:
        if isinstance(action, Publish):
            standing.add(action.topic)
        elif isinstance(action, Clear):
            standing.discard(action.topic)
    assert standing == site.retained.keys() == site.cluster.published
    assert not any(topic.startswith(f"{TOPICS.prefix}/pipelines") for topic in standing)
    assert len(topics) > len(standing)


def test_ghosts_of_nodes_are_cleared_with_them() -> None:
    """Rule 15: an ending is a document, cleared after a grace period."""
    site = Site(Board("n1"), Board("n2"), read_back=False)
    site.start()
    for number in range(30):
        name = f"guest-{number}"
        site.boards[name] = Board(name)
        site.boot(name)
        site.die(name)
        site.do(site.cluster.on_upkeep(site.now, "cli", f"f{number}", "forget", name))
        del site.boards[name]
    site.wait(site.settings.removed_shown + 1.0)
    assert set(site.cluster.members.nodes) == {"n1", "n2"}
    assert not any("guest" in topic for topic in site.retained)
    assert not any("guest" in name for name in site.cluster.publishing.addressed)


def test_clients_and_requests_are_bounded() -> None:
    site = Site(Board("n1"), read_back=False)
    site.start()
    site.run("n1")
    for number in range(MOST_CLIENTS + 10):
        site.cluster.on_attach(site.now, f"c{number}", "faces", True)
    assert len(site.record().clients) == MOST_CLIENTS
    for number in range(REMEMBERED + 10):
        site.cluster.on_upkeep(site.now, "cli", f"x{number}", "drain", "nowhere")
    assert len(site.cluster.replies.given) == REMEMBERED
    site.wait(site.settings.client_expires + 1.0)
    assert site.record().clients == {}


def test_leftovers_are_bounded_by_what_nodes_list() -> None:
    left = Leftovers()
    for number in range(5000):
        items = blueprint(intent(f"p{number}"), ["n1"]).slices["n1"]
        left.assigned(0.0, "n1", items, (), None)
    assert not left._nodes
