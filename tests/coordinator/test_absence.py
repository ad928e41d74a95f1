"""Rule 15, topic by topic: absence means nothing, an ending is a document, and it is cleared after a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from coordinator.actions import Clear, Publish
from coordinator.inbox import Inbox
from slicemq.messages import Artifact, CoordinatorState, Stamp, encode
from slicemq.operations import Mirror, RolloutDocument
from tests.coordinator.site import TOPICS, Board, Site, intent


@pytest.fixture
def site() -> Site:
    """A pipeline on two of three boards, and a rollout that has ended."""
    made = Site(Board("n1"), Board("n2"), Board("n3"))
    made.start()
    made.run("n1", "n2")
    return made


NODE_TOPICS = [TOPICS.node("n1", leaf) for leaf in ("state", "capacity", "report", "assignment", "heartbeat")]
PIPELINE_TOPICS = [TOPICS.pipeline("faces"), TOPICS.plan("faces"), TOPICS.rollout("faces")]
OTHER_TOPICS = [TOPICS.coordinator, TOPICS.mirror, TOPICS.coordinator_marker, TOPICS.request("cli-1", "undeploy")]


@pytest.mark.parametrize("retained", [True, False])
@pytest.mark.parametrize("topic", [*NODE_TOPICS, *PIPELINE_TOPICS, *OTHER_TOPICS])
def test_a_cleared_topic_tells_the_coordinator_nothing(site: Site, topic: str, retained: bool) -> None:
    """Rule 15: nothing is done, learnt or lost by it, now and later."""
    inbox = Inbox(TOPICS, site.cluster, site.cluster.instance)
    before, standing = site.routes(), dict(site.retained)
    assert list(inbox.read(site.now, topic, b"", retained)) == []
    site.wait(site.settings.removed_shown + site.settings.lost_shown)
    assert site.routes() == before
    assert site.retained == standing
    assert all(node.usable for node in site.cluster.members.nodes.values())


@dataclass(frozen=True)
class Ending:
    """How a retained document ends: what brings it about, and how its last form is known."""

    topic: str
    begin: Callable[[Site], Any]
    is_ending: Callable[[Any], bool]
    at_once: bool = False


def _forgotten(site: Site) -> None:
    site.undeploy("faces")
    site.obey()
    site.die("n1")


ENDINGS = [
    Ending(
        TOPICS.pipeline("faces"), lambda site: site.undeploy("faces"), lambda document: document.state == "removed"
    ),
    Ending(
        TOPICS.rollout("faces"),
        lambda site: site.undeploy("faces"),
        lambda document: document.current is None and document.history[-1].state == "promoted",
    ),
    Ending(TOPICS.plan("faces"), lambda site: site.undeploy("faces"), lambda document: True, at_once=True),
    Ending(TOPICS.node("n1", "assignment"), _forgotten, lambda document: document.slices == ()),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.topic)
def test_an_ending_is_said_and_cleared_after_the_grace_period(site: Site, ending: Ending) -> None:
    """Rule 15: whoever is connected in the meantime reads the ending, not an absence."""
    ending.begin(site)
    last = [action.document for action in site.log if isinstance(action, Publish) and action.topic == ending.topic][
        -1
    ]
    assert ending.is_ending(last)
    assert (ending.topic in site.retained) is not ending.at_once
    if ending.at_once:
        assert site.document().state == "removed", "it is part of what has ended"
    site.wait(site.settings.removed_shown - 5.0)
    assert (ending.topic in site.retained) is not ending.at_once
    site.wait(20.0)
    assert ending.topic not in site.retained
    assert sum(action == Clear(ending.topic) for action in site.log) == 1, "cleared once"


def test_every_topic_of_a_pipeline_and_a_node_has_its_row(site: Site) -> None:
    """Rule 15: what is retained and neither ends nor is cleared would stay for ever."""
    kinds = {topic.replace("n2", "n1").replace("n3", "n1") for topic in site.retained}
    assert kinds == {ending.topic for ending in ENDINGS}


@pytest.mark.parametrize("topic", [TOPICS.pipeline("ghosts"), TOPICS.plan("ghosts"), TOPICS.rollout("ghosts")])
def test_documents_that_nobody_knows_are_cleared_at_the_start(site: Site, topic: str) -> None:
    """Rule 17: and only by one that has begun to decide (rule 23)."""
    site.restart_coordinator()
    assert site.cluster.on_foreign(site.now, topic) == []
    site.do(site.cluster.start(site.now))
    assert site.cluster.on_foreign(site.now, topic) == [Clear(topic)]


def test_an_unknown_nodes_assignment_is_ended_before_it_is_cleared(site: Site) -> None:
    """Rule 15: a node that is only late finds an order to stop, and not nothing."""
    topic = TOPICS.node("ghost", "assignment")
    site.do(site.cluster.on_foreign(site.now, topic))
    assert site.retained[topic].slices == ()
    site.wait(site.settings.removed_shown - 1.0)
    assert topic in site.retained
    site.wait(5.0)
    assert topic not in site.retained


def test_mirrors_and_states_of_coordinators_are_never_cleared_by_another(site: Site) -> None:
    """Rule 15: there is one of each, and the next one overwrites it."""
    inbox = Inbox(TOPICS, site.cluster, site.cluster.instance)
    old = CoordinatorState("disconnected", Stamp(0, "0" * 16, 1), 0.0, "0")
    mirror = Mirror(Stamp(0, "0" * 16, 1), Artifact("a" * 64, 5), ())
    for topic, document in ((TOPICS.coordinator, old), (TOPICS.mirror, mirror)):
        actions = list(inbox.read(site.now, topic, encode(document), True))
        assert not any(isinstance(action, Clear) for action in actions)


def test_a_refused_first_deploy_says_so_before_it_is_cleared(site: Site) -> None:
    """Rule 15: the history of what never ran ends with an undeploy as any other."""
    site.deploy(intent("birds"))
    site.plan("n1")
    site.obey()
    site.report("n1", "s0", "failed", "a bad operator")
    site.undeploy("birds")
    document = site.retained[TOPICS.rollout("birds")]
    assert isinstance(document, RolloutDocument)
    assert document.history[-1].state in ("refused", "superseded")
    site.wait(site.settings.removed_shown + 5.0)
    assert TOPICS.rollout("birds") not in site.retained
