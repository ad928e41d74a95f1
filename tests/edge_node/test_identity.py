"""Two nodes with one id (protocol rule 16)."""

from __future__ import annotations

from edge_node.identity import YOUNG_SECONDS, Identity


def test_own_heartbeats_mean_nothing() -> None:
    identity = Identity("me", 0.4, 0.0)
    assert [identity.heard("me", n, n, 0.1 * n) for n in range(5)] == ["own"] * 5


def test_a_newborn_gives_way_to_a_live_node() -> None:
    identity = Identity("me", 0.4, 0.0)
    assert identity.heard("other", 1000, 0, 0.2) == "unclear"
    assert identity.heard("other", 1001, 0, 0.6) == "give-way"


def test_the_last_word_of_an_earlier_life_stops_nobody() -> None:
    identity = Identity("me", 0.4, 0.0)
    assert identity.heard("before", 7, 0, 0.1) == "unclear"
    assert identity.heard("before", 7, 0, 0.2) == "unclear", "delivered twice"
    assert identity.heard("older still", 3, 0, 0.3) == "unclear"


def test_an_established_node_stays_and_says_so() -> None:
    identity = Identity("me", 0.4, 0.0)
    late = YOUNG_SECONDS + 1
    identity.heard("other", 5000, 30, late)
    assert identity.heard("other", 5001, 31, late + 0.4) == "foreign"


def test_of_two_young_nodes_the_one_that_has_counted_further_stays() -> None:
    identity = Identity("me", 0.4, 0.0)
    identity.heard("other", 3, 10, 5.0)
    assert identity.heard("other", 4, 11, 5.4) == "foreign"
    assert identity.heard("other", 13, 12, 5.8) == "give-way"


def test_two_nodes_that_start_together_do_not_both_give_way() -> None:
    for ahead in (0.0, 0.1, 0.3):
        verdicts = {}
        nodes = {"aaaa": Identity("aaaa", 0.4, 0.0), "bbbb": Identity("bbbb", 0.4, 0.0)}
        counters = {"aaaa": 0, "bbbb": 0}
        beats = sorted([(0.4 * n, "aaaa") for n in range(1, 9)] + [(0.4 * n + ahead, "bbbb") for n in range(1, 9)])
        for now, sender in beats:
            if sender in verdicts:
                continue
            counters[sender] += 1
            for name, node in nodes.items():
                if name not in verdicts and node.heard(sender, counters[sender], counters[name], now) == "give-way":
                    verdicts[name] = now
        assert len(verdicts) == 1


def test_a_newborn_listens_for_three_heartbeats_and_at_least_a_second() -> None:
    assert Identity("me", 0.1, 0.0).listen == 1.0
    assert Identity("me", 2.0, 0.0).listen == 6.0


def test_many_epochs_do_not_fill_memory() -> None:
    identity = Identity("me", 0.4, 0.0)
    for number in range(10_000):
        identity.heard(f"{number}", 1, 0, 0.0)
    assert len(identity._last) <= 16
