"""Terms that nodes echo (rule 21)."""

from __future__ import annotations

from coordinator.actions import Persist, Publish
from coordinator.echoes import PATIENCE, Echoes
from slicemq.messages import Stamp
from tests.coordinator.site import TOPICS, Board, Site


def test_a_higher_term_is_exceeded_only_when_it_is_echoed_for_a_while() -> None:
    echoes = Echoes()
    assert echoes.exceeded(0.0, 3, 5) is None
    assert echoes.exceeded(0.0, 5, 5) is None
    assert echoes.exceeded(1.0, 7, 5) is None
    assert echoes.exceeded(2.0, 9, 5) is None
    assert echoes.exceeded(1.0 + PATIENCE, 7, 5) == 10
    assert echoes.exceeded(2.0 + PATIENCE, 7, 10) is None


def test_an_echo_of_long_ago_does_not_count_for_one_of_now() -> None:
    """Else a coordinator whose place was just taken would outbid who took it with the first echo that it hears."""
    echoes = Echoes()
    assert echoes.exceeded(0.0, 7, 5) is None
    assert echoes.exceeded(1000.0, 8, 5) is None
    assert echoes.exceeded(1000.0 + PATIENCE - 0.1, 8, 5) is None
    assert echoes.exceeded(1000.0 + PATIENCE, 8, 5) == 9


def test_rule_21_a_node_that_saw_a_higher_term_is_coordinated_with_a_higher_one() -> None:
    """Its last assignment is of a coordinator whose store was lost."""
    site = Site(Board("pi-1"), Board("pi-2"))
    site.start()
    revision = site.run("pi-1", "pi-2")
    site.boards["pi-1"].seen = Stamp(41, "f" * 16, 7)
    site.deaf.add("pi-1")
    site.wait(PATIENCE - 1.0)
    assert site.cluster.term < 41
    site.log.clear()
    site.wait(2.0)
    assert site.cluster.term == 42
    assert site.stored_term == 42
    published = [action for action in site.log if isinstance(action, Publish)]
    assert isinstance(site.log[0], Persist), "stored before it is used"
    assert {action.document.stamp.term for action in published} == {42}
    assert {TOPICS.pipeline("faces"), TOPICS.node("pi-1", "assignment")} <= {action.topic for action in published}
    site.deaf.clear()
    site.obey()
    site.wait(5.0)
    assert site.routes() == {revision: "active"}
