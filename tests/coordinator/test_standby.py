"""When a standby is ready, and when it takes over (rules 20 to 23)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.membership import RECONNECT_GRACE
from coordinator.standby import INCOMPLETE, TURN, Action, FetchMirror, Standby, TakeOver, Tell
from slicemq.messages import Artifact, Beat, CoordinatorState, Stamp
from slicemq.operations import Mirror, StandbyState

ME, OTHER, ACTIVE = "5" * 16, "7" * 16, "a" * 16
DEADLINE = 1.5
STEP = 0.25
STORE = Artifact("e" * 64, 10)
FILE = Artifact("f" * 64, 20)


def mirror(counter: int = 1, term: int = 1) -> Mirror:
    return Mirror(Stamp(term, ACTIVE, counter), STORE, (FILE,))


class Driver:
    """A standby on a connection that carries."""

    def __init__(self, instance: str = ME, held: Stamp | None = None) -> None:
        self.mind = Standby(instance, held=held, deadline=DEADLINE)
        self.now = 100.0

    def wait(self, seconds: float, *, active: int | None = None, starting: str = "") -> list[Action]:
        """Let the own marker come back while time passes; beats of an active one with this term, if any."""
        actions: list[Action] = []
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            if active is not None:
                self.mind.on_beat(Beat(ACTIVE, 1, active))
            if starting:
                self.mind.on_beat(Beat(starting, 1))
            actions += self.mind.on_marker(self.now)
        return actions

    def ready(self) -> Driver:
        """Beside an active one whose mirror is held."""
        self.mind.on_mirror(mirror())
        self.mind.on_fetched(mirror())
        self.wait(5.0, active=1)
        assert self.mind.state == "ready"
        return self

    def document(self, word: str, term: int = 1, instance: str = ACTIVE, *, retained: bool = False) -> None:
        document = CoordinatorState(word, Stamp(term, instance, 1), 0.0, "")  # type: ignore[arg-type]
        self.mind.on_coordinator(document, retained=retained)

    def other(self, state: str, held: Stamp | None, instance: str = OTHER) -> list[Action]:
        return self.mind.on_standby(StandbyState(instance, state, held))  # type: ignore[arg-type]

    def seconds_to_takeover(self, limit: float = 60.0) -> float:
        begun = self.now
        while self.now - begun < limit:
            if takeovers(self.wait(STEP)):
                return self.now - begun
        return limit


def takeovers(actions: list[Action]) -> list[TakeOver]:
    return [action for action in actions if isinstance(action, TakeOver)]


# -- what it holds (rule 22) ---------------------------------------------------------------------------------------


def test_rule_22_ready_means_that_all_of_the_highest_mirror_is_held() -> None:
    driver = Driver()
    mind = driver.mind
    driver.wait(STEP)
    assert mind.state == "mirroring"
    assert mind.on_mirror(mirror(1)) == [FetchMirror(mirror(1))]
    assert mind.on_fetched(mirror(1), [FILE]) == []
    assert mind.state == "mirroring"
    assert mind.on_fetched(mirror(1)) == [Tell("ready", mirror(1).stamp)]
    assert mind.on_mirror(mirror(2)) == [FetchMirror(mirror(2)), Tell("mirroring", mirror(1).stamp)]
    assert mind.on_fetched(mirror(1)) == [], "of one that is not the highest any more"
    assert mind.on_fetched(mirror(2)) == [Tell("ready", mirror(2).stamp)]


@pytest.mark.parametrize("lower", [mirror(4, 2), mirror(5, 2), mirror(9, 1)])
def test_rule_21_a_lower_mirror_is_ignored(lower: Mirror) -> None:
    mind = Driver().mind
    mind.on_mirror(mirror(5, 2))
    assert mind.on_mirror(lower) == []


def test_what_was_held_before_the_start_counts() -> None:
    driver = Driver(held=mirror(3).stamp)
    mind = driver.mind
    assert mind.on_mirror(mirror(3)) == []
    assert mind.state == "mirroring", "not before all that is retained was heard (rule 23)"
    assert driver.wait(STEP) == [Tell("ready", mirror(3).stamp)]
    assert mind.on_mirror(mirror(4)) == [FetchMirror(mirror(4)), Tell("mirroring", mirror(3).stamp)]


def test_rule_21_what_is_held_of_a_lower_term_is_not_all() -> None:
    """Who coordinates with a higher one has a store of its own, also before its mirror is heard of."""
    driver = Driver(held=mirror(3, term=1).stamp)
    driver.mind.on_mirror(mirror(3, term=1))
    driver.document("ready", term=2, retained=True)
    assert driver.wait(1.0, active=2) == []
    assert driver.mind.state == "mirroring"
    assert driver.mind.on_mirror(mirror(1, term=2)) == [FetchMirror(mirror(1, term=2))]
    assert driver.mind.on_fetched(mirror(1, term=2)) == [Tell("ready", mirror(1, term=2).stamp)]


def test_one_that_holds_less_than_another_standby_is_not_ready() -> None:
    """Also when the mirror's own document is lost, with a broker that keeps nothing."""
    driver = Driver(held=mirror(3).stamp)
    driver.wait(STEP)
    assert driver.mind.state == "ready"
    assert driver.other("ready", mirror(4).stamp) == [Tell("mirroring", mirror(3).stamp)]


# -- when it takes over --------------------------------------------------------------------------------------------


def test_nothing_happens_while_somebody_coordinates() -> None:
    assert Driver().ready().wait(600.0, active=1) == []


@pytest.mark.parametrize("word", ["lost", "disconnected"])
def test_a_last_will_and_a_farewell_are_believed_at_once(word: str) -> None:
    driver = Driver().ready()
    driver.document(word)
    assert driver.seconds_to_takeover() == STEP


def test_rule_20_silence_counts_while_the_own_marker_comes_back() -> None:
    driver = Driver().ready()
    assert DEADLINE - STEP <= driver.seconds_to_takeover() <= DEADLINE + 2 * STEP


def test_rule_20_no_time_passes_while_the_own_marker_does_not_come_back() -> None:
    """The broker hangs, or this process was stopped: at most two intervals count."""
    driver = Driver().ready()
    driver.now += 3600.0
    assert driver.mind.on_marker(driver.now) == []
    assert driver.wait(5.0, active=1) == []


def test_rule_20_after_a_lost_connection_the_active_one_gets_time_to_come_back() -> None:
    driver = Driver().ready()
    driver.mind.on_down()
    driver.now += 60.0
    assert driver.seconds_to_takeover() > RECONNECT_GRACE + DEADLINE
    driver = Driver().ready()
    driver.mind.on_down()
    assert driver.wait(RECONNECT_GRACE) == []
    assert driver.wait(60.0, active=1) == []


def test_a_will_has_the_term_of_before_its_owner_coordinated() -> None:
    driver = Driver().ready()
    driver.document("lost", term=0)
    assert driver.seconds_to_takeover() == STEP


def test_a_retained_will_may_be_old_and_only_silence_counts() -> None:
    driver = Driver().ready()
    driver.document("lost", retained=True)
    assert driver.wait(DEADLINE - STEP) == []
    assert driver.wait(60.0, active=1) == []


def test_a_will_that_is_taken_back_says_nothing() -> None:
    """Rule 17: the owner of the document lives and publishes it again."""
    driver = Driver().ready()
    driver.document("lost")
    driver.document("ready")
    assert driver.wait(60.0, active=1) == []


def test_rule_21_wills_and_beats_of_a_lower_term_are_ignored() -> None:
    driver = Driver().ready()
    driver.wait(5.0, active=2)
    driver.document("lost", term=1)
    assert not takeovers(driver.wait(5.0, active=2))
    driver = Driver().ready()
    driver.wait(5.0, active=2)
    taken: list[Action] = []
    for _ in range(round((DEADLINE + INCOMPLETE) / STEP) + 2):
        driver.mind.on_beat(Beat("c" * 16, 1, 1))
        taken += driver.wait(STEP)
    assert takeovers(taken), "the one with the higher term is silent"


def test_its_own_will_of_a_time_when_it_coordinated_says_nothing_of_others() -> None:
    driver = Driver().ready()
    driver.document("lost", term=1, instance=ME)
    assert driver.wait(60.0, active=1) == []


# -- whose turn it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "others", "turn"),
    [
        (ME, [], 0),
        (ME, [(OTHER, "ready", 1)], 0),
        (OTHER, [(ME, "ready", 1)], 1),
        (OTHER, [(ME, "mirroring", None)], 0),
        (OTHER, [(ME, "ready", 1), ("3" * 16, "ready", 1), ("9" * 16, "ready", 1)], 2),
        (OTHER, [(ME, "lost", 1)], 0),
        (OTHER, [(ME, "disconnected", 1)], 0),
    ],
)
def test_among_equals_the_lower_instance_goes_first(
    mine: str, others: list[tuple[str, str, int | None]], turn: int
) -> None:
    driver = Driver(mine).ready()
    for instance, state, held in others:
        driver.other(state, mirror(held).stamp if held is not None else None, instance)
    driver.document("lost")
    assert driver.seconds_to_takeover() == pytest.approx(turn * TURN + STEP, abs=STEP)


def test_a_standby_that_was_quicker_is_waited_for() -> None:
    driver = Driver(OTHER).ready()
    driver.other("ready", mirror().stamp, ME)
    driver.document("lost")
    assert driver.wait(20.0, starting=ME) == []
    assert not takeovers(driver.wait(60.0, active=2))


def test_a_standby_that_dies_on_its_way_is_not_waited_for() -> None:
    driver = Driver(OTHER).ready()
    driver.document("lost")
    assert driver.wait(2.0, starting=ME) == []
    assert driver.seconds_to_takeover() <= DEADLINE + 2 * TURN


def test_rule_22_one_that_lacks_something_waits_longer_and_says_what() -> None:
    driver = Driver()
    driver.mind.on_mirror(mirror())
    driver.mind.on_fetched(mirror(), [FILE])
    driver.wait(5.0, active=1)
    driver.document("lost")
    assert driver.wait(INCOMPLETE - STEP) == []
    assert driver.wait(2 * STEP) == [TakeOver(f"coordinator {ACTIVE[:8]} was lost", (FILE,))]


def test_one_that_never_heard_of_anybody_coordinates_in_the_end() -> None:
    taken = takeovers(Driver().wait(DEADLINE + INCOMPLETE + 2 * STEP))
    assert [action.missing for action in taken] == [()]
    assert "no coordinator was heard" in taken[0].why


@given(
    events=st.lists(
        st.one_of(
            st.tuples(st.just("beat"), st.sampled_from([ME, OTHER, ACTIVE]), st.integers(0, 3)),
            st.tuples(st.just("state"), st.sampled_from(["ready", "lost", "disconnected"]), st.integers(1, 3)),
            st.tuples(st.just("mirror"), st.integers(1, 3), st.integers(1, 3)),
            st.tuples(st.just("standby"), st.sampled_from(["ready", "mirroring", "lost"]), st.integers(1, 3)),
            st.tuples(st.just("down"), st.just(0), st.just(0)),
            st.tuples(st.just("time"), st.floats(0, 20), st.just(0)),
        ),
        max_size=40,
    )
)
def test_whatever_came_before_an_active_one_that_beats_is_left_alone(events: list[tuple[str, object, int]]) -> None:
    """And one that is silent for good is replaced."""
    driver = Driver()
    for kind, first, second in events:
        if kind == "beat":
            driver.mind.on_beat(Beat(str(first), 1, second))
        elif kind == "state":
            driver.document(str(first), second)
        elif kind == "mirror":
            driver.mind.on_mirror(mirror(int(str(first)), second))
        elif kind == "standby":
            driver.other(str(first), mirror(second).stamp)
        elif kind == "down":
            driver.mind.on_down()
        else:
            driver.now += float(str(first))
            driver.mind.on_marker(driver.now)
    driver.wait(STEP, active=9)
    assert not takeovers(driver.wait(60.0, active=9))
    assert driver.seconds_to_takeover() <= RECONNECT_GRACE + DEADLINE + INCOMPLETE + 2 * TURN
