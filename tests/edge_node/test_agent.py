"""The agent's table of phases, event by event (protocol rules 10, 11, 12, 15, 21)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_node.agent import Agent
from edge_node.events import (
    Action,
    AssignmentReceived,
    CancelFetch,
    CoordinatorSeen,
    EmptyWorker,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    PublishReport,
    RetaskWorker,
    StartSpare,
    StartWorker,
    StopWorker,
    Tick,
    WorkerBeat,
    WorkerDied,
    WorkerEmpty,
    WorkerFailed,
    WorkerReady,
)
from slicemq.messages import Artifact, Assignment, Crash, FrameName, SliceAssignment, SliceBeat, Stamp
from tests.edge_node.cluster import slice_assignment

MB = 1_000_000
A = Artifact("a" * 64, 10 * MB)
B = Artifact("b" * 64, 10 * MB)


def one(
    name: str = "s0", revision: str = "1-00000001", artifact: Artifact = A, memory: int = 60 * MB
) -> SliceAssignment:
    return slice_assignment(slice=name, revision=revision, artifact=artifact, memory=memory)


class Driver:
    """An agent, and what it said last."""

    def __init__(self, memory: int = 100 * MB, *, spare: bool = False) -> None:
        self.agent = Agent(memory, worker_memory=10 * MB, spare=spare)
        self.now = 0.0
        self.counter = 0
        self.workers: list[int] = []
        self.seen: Stamp | None = None
        self.report: dict[tuple[str, str], tuple[str, str]] = {}
        self.crashes: tuple[Crash, ...] = ()

    def do(self, event: Event, passed: float = 0.1) -> list[Action]:
        self.now += passed
        actions = self.agent.handle(event, self.now)
        for action in actions:
            if isinstance(action, StartWorker):
                self.workers.append(action.worker)
            if isinstance(action, RetaskWorker):
                self.workers.append(action.number)
            if isinstance(action, PublishReport):
                self.crashes = action.crashes
                self.report = {(s.revision, s.slice): (s.state, s.reason) for s in action.slices}
                self.seen = action.seen
        return actions

    def assign(self, *slices: SliceAssignment, stamp: Stamp | None = None) -> list[Action]:
        self.counter += 1
        return self.do(AssignmentReceived(Assignment("n1", stamp or Stamp(1, "aa", self.counter), slices)))

    def run(self, *slices: SliceAssignment) -> list[int]:
        """Assign and bring to `running`; the numbers of the workers."""
        self.assign(*slices)
        for sha256 in {s.artifact.sha256 for s in slices}:
            self.do(Fetched(sha256))
        started = self.workers[-len(slices) :]
        for worker in started:
            self.do(WorkerReady(worker))
        assert all(word == "ready" for word, _ in self.report.values())
        return started


def kinds(actions: list[Action]) -> list[type[Any]]:
    return [type(action) for action in actions]


KEY = ("1-00000001", "s0")


def test_the_first_event_reports_that_nothing_is_held() -> None:
    driver = Driver()
    assert driver.do(Tick()) == [PublishReport((), None)]
    assert driver.do(Tick()) == []


def test_a_slice_goes_from_fetching_to_ready() -> None:
    driver = Driver()
    assert kinds(driver.assign(one())) == [Fetch, PublishReport]
    assert driver.report == {KEY: ("fetching", "")}
    actions = driver.do(Fetched(A.sha256))
    assert kinds(actions) == [StartWorker, PublishReport]
    assert isinstance(actions[0], StartWorker)
    assert actions[0].slice == one()
    assert driver.report == {KEY: ("loading", "")}
    driver.do(WorkerReady(driver.workers[0]))
    assert driver.report == {KEY: ("ready", "")}


def test_slices_that_share_an_artifact_fetch_it_once() -> None:
    driver = Driver()
    actions = driver.assign(one("s0"), one("s1"))
    assert kinds(actions).count(Fetch) == 1
    assert kinds(driver.do(Fetched(A.sha256))).count(StartWorker) == 2


def test_fetching_protects_every_assigned_artifact() -> None:
    driver = Driver()
    driver.run(one("s0"))
    actions = driver.assign(one("s0"), one("s1", artifact=B))
    assert isinstance(actions[0], Fetch)
    assert actions[0].keep == {A.sha256, B.sha256}


def test_a_beat_is_passed_on_while_running_only() -> None:
    driver = Driver()
    driver.assign(one())
    driver.do(Fetched(A.sha256))
    beat = WorkerBeat(driver.workers[0], SliceBeat("faces", "1-00000001", "s0", "up", frames=3))
    assert driver.do(beat) == []
    assert driver.agent.beats() == ()
    driver.do(WorkerReady(driver.workers[0]))
    assert driver.agent.beats() == (beat.beat,)
    driver.assign()
    assert driver.agent.beats() == ()


def test_a_fetch_that_may_come_right_is_tried_again_with_growing_pauses() -> None:
    driver = Driver()
    driver.assign(one())
    pauses = []
    for _ in range(6):
        driver.do(FetchFailed(A.sha256, "no chunk", final=False))
        assert driver.report == {KEY: ("fetching", "no chunk")}
        failed = driver.now
        while not any(isinstance(action, Fetch) for action in driver.do(Tick())):
            assert driver.now - failed < 60
        pauses.append(round(driver.now - failed))
    assert pauses == [2, 4, 8, 16, 30, 30]


def test_a_fetch_that_cannot_come_right_fails_the_slice() -> None:
    driver = Driver()
    driver.assign(one())
    driver.do(FetchFailed(A.sha256, "the disk is full", final=True))
    assert driver.report == {KEY: ("failed", "the disk is full")}
    assert driver.do(Tick(), 1000.0) == []


def test_a_dropped_fetch_is_cancelled_and_a_late_word_of_it_changes_nothing() -> None:
    driver = Driver()
    driver.assign(one())
    assert kinds(driver.assign()) == [CancelFetch, PublishReport]
    assert driver.report == {}
    assert driver.do(Fetched(A.sha256)) == []
    assert driver.do(FetchFailed(A.sha256, "late", final=True)) == []


def test_a_worker_that_refuses_fails_its_slice_and_stays_so() -> None:
    driver = Driver()
    driver.assign(one())
    driver.do(Fetched(A.sha256))
    driver.do(WorkerFailed(driver.workers[0], "lacks operator Foo"))
    driver.do(WorkerDied(driver.workers[0], "exit code 1"))
    assert driver.report == {KEY: ("failed", "lacks operator Foo")}
    assert driver.do(Tick(), 1000.0) == []
    driver.assign(one())
    assert driver.report == {KEY: ("failed", "lacks operator Foo")}


@pytest.mark.parametrize("phase", ["starting", "running"])
def test_a_worker_that_died_once_is_started_again_after_checking_the_file(phase: str) -> None:
    driver = Driver()
    driver.assign(one())
    driver.do(Fetched(A.sha256))
    if phase == "running":
        driver.do(WorkerReady(driver.workers[0]))
    actions = driver.do(WorkerDied(driver.workers[0], "signal SIGSEGV"))
    assert kinds(actions) == [Fetch, PublishReport]
    state, reason = driver.report[KEY]
    assert state == "fetching"
    assert "signal SIGSEGV while" in reason
    assert kinds(driver.do(Fetched(A.sha256))) == [StartWorker, PublishReport]


def test_two_deaths_within_a_minute_fail_the_slice_rule_10() -> None:
    driver = Driver()
    first = driver.run(one())[0]
    driver.do(WorkerDied(first, "signal SIGSEGV"))
    driver.do(Fetched(A.sha256))
    driver.do(WorkerDied(driver.workers[-1], "signal SIGKILL"), 50.0)
    state, reason = driver.report[KEY]
    assert state == "failed"
    assert "twice within 60 s: signal SIGKILL while loading" in reason


def test_two_deaths_far_apart_do_not() -> None:
    driver = Driver()
    driver.run(one())
    for _ in range(5):
        driver.do(WorkerDied(driver.workers[-1], "signal SIGSEGV"), 61.0)
        driver.do(Fetched(A.sha256))
        driver.do(WorkerReady(driver.workers[-1]))
    assert driver.report == {KEY: ("ready", "")}


def test_a_slice_stays_in_the_report_until_its_worker_is_gone_rule_12() -> None:
    driver = Driver()
    worker = driver.run(one())[0]
    assert driver.assign() == [StopWorker(worker), driver.agent._reported]
    assert driver.report == {KEY: ("loading", "stopping")}
    assert driver.do(Tick(), 10.0) == []
    driver.do(WorkerDied(worker, "exit code 0"))
    assert driver.report == {}


def test_a_stopping_slice_that_is_wanted_again_starts_when_it_is_gone() -> None:
    driver = Driver()
    worker = driver.run(one())[0]
    driver.assign()
    driver.assign(one())
    assert driver.report == {KEY: ("loading", "stopping")}
    assert kinds(driver.do(WorkerDied(worker, "exit code 0"))) == [Fetch, PublishReport]


def test_a_changed_slice_under_the_same_name_is_started_anew() -> None:
    driver = Driver()
    worker = driver.run(one())[0]
    actions = driver.assign(one(memory=61 * MB))
    assert StopWorker(worker) in actions
    driver.do(WorkerDied(worker, "exit code 0"))
    driver.do(Fetched(A.sha256))
    assert len(driver.workers) == 2


def test_when_memory_is_short_the_new_revision_waits_for_the_old_one_to_go() -> None:
    driver = Driver(memory=100 * MB)
    old = driver.run(one(memory=60 * MB))[0]
    new = one(revision="2-00000002", artifact=B, memory=60 * MB)
    driver.assign(new)
    assert StartWorker not in kinds(driver.do(Fetched(B.sha256)))
    assert driver.report[("2-00000002", "s0")] == ("loading", "waiting for memory")
    assert kinds(driver.do(WorkerDied(old, "exit code 0"))) == [StartWorker, PublishReport]


def test_when_memory_suffices_both_revisions_are_loaded_at_once() -> None:
    driver = Driver(memory=130 * MB)
    driver.run(one(memory=60 * MB))
    driver.assign(one(revision="2-00000002", artifact=B, memory=60 * MB))
    assert StartWorker in kinds(driver.do(Fetched(B.sha256)))


def test_a_second_worker_counts_its_own_idle_memory() -> None:
    driver = Driver(memory=125 * MB)
    driver.run(one(memory=60 * MB))
    driver.assign(one(revision="2-00000002", artifact=B, memory=60 * MB))
    assert StartWorker not in kinds(driver.do(Fetched(B.sha256)))


def test_words_of_an_earlier_worker_change_nothing() -> None:
    driver = Driver()
    first = driver.run(one())[0]
    driver.do(WorkerDied(first, "signal SIGSEGV"))
    driver.do(Fetched(A.sha256))
    for event in (WorkerReady(first), WorkerFailed(first, "late"), WorkerDied(first, "late")):
        assert driver.do(event) == []
    assert driver.report == {KEY: ("loading", "")}


def test_a_lower_stamp_is_ignored_and_the_highest_is_echoed_rule_21() -> None:
    driver = Driver()
    driver.assign(one(), stamp=Stamp(2, "bb", 5))
    assert driver.seen == Stamp(2, "bb", 5)
    for lower in (Stamp(2, "bb", 4), Stamp(2, "aa", 9), Stamp(1, "zz", 99)):
        assert driver.assign(stamp=lower) == []
    assert driver.report == {KEY: ("fetching", "")}
    driver.assign(stamp=Stamp(3, "aa", 1))
    assert driver.report == {}
    assert driver.agent.seen == Stamp(3, "aa", 1)


def test_an_assignment_of_a_term_that_is_over_is_ignored() -> None:
    driver = Driver()
    driver.do(CoordinatorSeen(Stamp(5, "aa", 1)))
    driver.assign(one(), stamp=Stamp(4, "aa", 100))
    assert driver.report == {}
    assert driver.agent.seen == Stamp(5, "aa", 1)
    assert driver.seen is None, "a report echoes accepted assignments only"


def test_a_higher_counter_of_another_document_does_not_hide_an_assignment() -> None:
    driver = Driver()
    driver.do(CoordinatorSeen(Stamp(5, "aa", 100)))
    driver.assign(one(), stamp=Stamp(5, "aa", 7))
    assert driver.report == {KEY: ("fetching", "")}
    assert driver.seen == Stamp(5, "aa", 7)
    assert driver.agent.seen == Stamp(5, "aa", 100)


def test_the_same_assignment_again_is_answered_by_the_report_again_rule_7() -> None:
    driver = Driver()
    driver.assign(one(), stamp=Stamp(1, "aa", 1))
    assert kinds(driver.assign(one(), stamp=Stamp(1, "aa", 1))) == [PublishReport]


OLD = ("1-00000001", "s0")
NEW = ("2-00000002", "s3")
X, Y = FrameName("cam", "00000000000000aa", 7), FrameName("cam", "00000000000000aa", 8)


def test_a_slice_of_the_same_file_takes_over_the_worker_of_one_that_is_not_wanted_any_more_rule_11() -> None:
    driver = Driver()
    old = driver.run(one())[0]
    new = one("s3", "2-00000002")
    actions = driver.assign(new)
    assert kinds(actions) == [RetaskWorker, PublishReport], "nothing is fetched, started or stopped"
    assert actions[0] == RetaskWorker(old, driver.workers[-1], new)
    assert driver.report == {NEW: ("loading", "")}, "ready only when its inputs are subscribed"
    assert driver.do(WorkerReady(old)) == [], "a word about the earlier task"
    assert driver.agent.beats() == ()
    driver.do(WorkerReady(driver.workers[-1]))
    assert driver.report == {NEW: ("ready", "")}


@pytest.mark.parametrize(
    "change",
    [
        {"artifact": B},
        {"stateful": True},
        {"pipeline": "birds"},
        {"takes": (3,)},
        {"gives": (3,)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_only_the_same_work_is_taken_over(change: dict[str, Any]) -> None:
    driver = Driver()
    old = driver.run(one())[0]
    values: dict[str, Any] = {"slice": "s3", "revision": "2-00000002", "artifact": A, "memory": 60 * MB}
    actions = driver.assign(slice_assignment(**(values | change)))
    assert kinds(actions) == [StopWorker, Fetch, PublishReport]
    assert actions[0] == StopWorker(old)


def test_a_stateful_slice_is_loaded_anew_rule_6() -> None:
    driver = Driver()
    values: dict[str, Any] = {"artifact": A, "memory": 60 * MB, "stateful": True}
    old = driver.run(slice_assignment(**values))[0]
    assert StopWorker(old) in driver.assign(slice_assignment(**values, slice="s3", revision="2-00000002"))


def test_while_the_old_revision_is_wanted_its_worker_is_not_taken() -> None:
    driver = Driver(memory=200 * MB)
    driver.run(one())
    assert kinds(driver.assign(one(), one("s3", "2-00000002"))) == [Fetch, PublishReport]


def test_a_slice_that_is_still_loading_is_not_taken_over() -> None:
    driver = Driver()
    driver.assign(one())
    driver.do(Fetched(A.sha256))
    assert kinds(driver.assign(one("s3", "2-00000002"))) == [StopWorker, Fetch, PublishReport]


def test_a_worker_that_dies_after_it_was_given_another_task_is_started_again() -> None:
    driver = Driver()
    old = driver.run(one())[0]
    driver.assign(one("s3", "2-00000002"))
    assert driver.do(WorkerDied(old, "late")) == []
    assert kinds(driver.do(WorkerDied(driver.workers[-1], "signal SIGKILL"))) == [Fetch, PublishReport]
    assert driver.report[NEW][0] == "fetching"


def test_a_spare_is_started_when_all_is_at_rest_and_the_next_slice_gets_it() -> None:
    driver = Driver(memory=200 * MB, spare=True)
    driver.run(one())
    assert driver.do(Tick()) == []
    actions = driver.do(Tick(), 1.0)
    assert kinds(actions) == [StartSpare]
    assert isinstance(actions[0], StartSpare)
    spare = actions[0].worker
    assert driver.agent.spare_memory == 10 * MB
    driver.assign(one(), one("s1", artifact=B))
    assert driver.do(Fetched(B.sha256))[0] == RetaskWorker(spare, driver.workers[-1], one("s1", artifact=B))
    assert driver.agent.spare_memory == 0
    assert driver.do(Tick(), 5.0) == [], "another one waits until this slice runs"
    driver.do(WorkerReady(driver.workers[-1]))
    assert kinds(driver.do(Tick(), 1.0)) == [StartSpare]


def test_without_the_setting_there_is_no_spare() -> None:
    driver = Driver(memory=200 * MB)
    driver.run(one())
    assert driver.do(Tick(), 100.0) == []


@pytest.mark.parametrize(("memory", "spare"), [(69, False), (70, True)])
def test_a_spare_counts_as_a_worker(memory: int, spare: bool) -> None:
    """One idle worker is taken off `memory` already: with a slice of 60 MB a second one of 10 has to fit."""
    driver = Driver(memory=memory * MB, spare=True)
    driver.run(one(memory=60 * MB))
    assert (StartSpare in kinds(driver.do(Tick(), 2.0))) == spare


def test_a_spare_ends_when_its_memory_is_wanted() -> None:
    driver = Driver(memory=140 * MB, spare=True)
    worker = driver.run(one(memory=60 * MB))[0]
    (start,) = driver.do(Tick(), 2.0)
    assert isinstance(start, StartSpare)
    larger = one("s3", "2-00000002", memory=140 * MB)
    actions = driver.assign(larger)
    assert isinstance(actions[0], RetaskWorker)
    assert actions[0].worker == worker
    assert StopWorker(start.worker) in actions
    assert driver.do(WorkerDied(start.worker, "exit code 0")) == []
    assert driver.do(Tick(), 100.0) == []


def test_a_spare_whose_memory_a_coming_slice_fills_waits_for_it() -> None:
    driver = Driver(memory=100 * MB, spare=True)
    start = driver.do(Tick(), 2.0)[0]
    assert isinstance(start, StartSpare)
    driver.assign(one(memory=100 * MB))
    assert driver.do(Fetched(A.sha256))[0] == RetaskWorker(start.worker, driver.workers[-1], one(memory=100 * MB))
    driver.do(WorkerReady(driver.workers[-1]))
    assert driver.do(Tick(), 100.0) == []


def test_the_worker_of_a_stopped_slice_becomes_the_spare_where_there_is_none() -> None:
    """Rule 12: its slice leaves the report when the worker says that the memory is free."""
    driver = Driver(memory=200 * MB, spare=True)
    worker = driver.run(one())[0]
    empty, report = driver.assign()
    assert isinstance(empty, EmptyWorker)
    assert (empty.worker, empty.most) == (worker, 11_000_000)
    assert isinstance(report, PublishReport)
    assert driver.report == {KEY: ("loading", "stopping")}
    assert driver.do(Tick(), 5.0) == []
    assert driver.do(WorkerDied(worker, "exit code 0")) == [], "that number is not its own any more"
    driver.do(WorkerEmpty(empty.number))
    assert driver.report == {}
    assert driver.agent.spare_memory == 10 * MB
    assert driver.do(Tick(), 5.0) == [], "there is one"
    driver.assign(one("s1", artifact=B))
    assert driver.do(Fetched(B.sha256))[0] == RetaskWorker(empty.number, driver.workers[-1], one("s1", artifact=B))


def test_no_spare_is_started_soon_while_two_revisions_are_held() -> None:
    driver = Driver(memory=200 * MB, spare=True)
    driver.run(one())
    (start,) = driver.do(Tick(), 2.0)
    assert isinstance(start, StartSpare)
    other = one(revision="2-00000002", artifact=B)
    driver.run(one(), other)
    assert driver.do(Tick(), 10.0) == []
    empty = driver.assign(other)[0]
    assert isinstance(empty, EmptyWorker)
    driver.do(WorkerEmpty(empty.number))
    assert driver.do(Tick(), 20.0) == []
    driver.run(other, one(revision="3-00000003"))
    assert driver.do(Tick(), 10.0) == []
    assert kinds(driver.do(Tick(), 6.0)) == [StartSpare], "a canary may go on for long"


def test_a_worker_that_takes_too_much_after_its_slice_ends_and_a_fresh_one_is_started() -> None:
    driver = Driver(memory=200 * MB, spare=True)
    driver.run(one())
    empty = driver.assign()[0]
    assert isinstance(empty, EmptyWorker)
    driver.do(WorkerDied(empty.number, "exit code 0"))
    assert driver.report == {}
    assert driver.agent.spare_memory == 0
    assert kinds(driver.do(Tick(), 2.0)) == [StartSpare]


def test_one_worker_at_most_is_emptied_and_none_where_there_is_a_spare_or_no_room() -> None:
    driver = Driver(memory=200 * MB, spare=True)
    driver.run(one("s0"), one("s1"))
    assert kinds(driver.assign()) == [EmptyWorker, StopWorker, PublishReport]
    driver = Driver(memory=200 * MB, spare=True)
    driver.run(one())
    assert kinds(driver.do(Tick(), 2.0)) == [StartSpare]
    assert kinds(driver.assign()) == [StopWorker, PublishReport]
    driver = Driver(memory=140 * MB, spare=True)
    driver.run(one("s0"), one("s1"))
    # The emptied worker would run one of them, and the other one would lack the room.
    coming = (one("s2", artifact=B), one("s3", artifact=B, memory=10 * MB))
    assert StopWorker in kinds(driver.assign(one("s0"), *coming))
    driver = Driver(memory=200 * MB)
    driver.run(one())
    assert kinds(driver.assign()) == [StopWorker, PublishReport]


def test_a_slice_that_is_wanted_again_meanwhile_gets_the_emptied_worker() -> None:
    driver = Driver(memory=200 * MB, spare=True)
    driver.run(one())
    empty = driver.assign()[0]
    assert isinstance(empty, EmptyWorker)
    driver.assign(one())
    assert driver.report == {KEY: ("loading", "stopping")}
    assert Fetch in kinds(driver.do(WorkerEmpty(empty.number)))
    assert driver.do(Fetched(A.sha256))[0] == RetaskWorker(empty.number, driver.workers[-1], one())


def test_a_spare_that_dies_is_replaced_later_each_time() -> None:
    driver = Driver(spare=True)
    pauses = []
    driver.do(Tick(), 2.0)
    (spare,) = [driver.agent._spare]
    for _ in range(3):
        assert spare is not None
        driver.do(WorkerDied(spare, "signal SIGKILL"))
        died = driver.now
        while StartSpare not in kinds(driver.do(Tick())):
            assert driver.now - died < 100
        pauses.append(round(driver.now - died))
        spare = driver.agent._spare
    assert pauses == [10, 20, 40]


def crash(driver: Driver, at: Any, passed: float = 0.1) -> list[Action]:
    """The latest worker dies, and its slice runs again if it may; what the death caused."""
    actions = driver.do(WorkerDied(driver.workers[-1], "signal SIGSEGV", at), passed)
    driver.do(Fetched(A.sha256))
    driver.do(WorkerReady(driver.workers[-1]))
    return actions


def test_two_deaths_by_one_frame_poison_it_and_do_not_fail_the_slice_rule_10() -> None:
    driver = Driver()
    driver.run(one())
    crash(driver, X)
    assert driver.crashes == (Crash("faces", "1-00000001", "s0", X, 1, "signal SIGSEGV"),)
    driver.do(WorkerDied(driver.workers[-1], "signal SIGSEGV", X))
    start = driver.do(Fetched(A.sha256))[0]
    assert isinstance(start, StartWorker)
    assert start.poisoned == (X,)
    driver.do(WorkerReady(start.worker))
    assert driver.report == {OLD: ("ready", "")}
    assert [one.count for one in driver.crashes] == [2]
    crash(driver, Y)
    assert driver.report == {OLD: ("ready", "")}, "the deaths by the poisoned frame do not count"


def test_a_frame_is_poisoned_across_revisions_and_slices_of_its_pipeline_rule_10() -> None:
    driver = Driver()
    driver.run(one())
    crash(driver, X)
    driver.assign()
    driver.do(WorkerDied(driver.workers[-1], "exit code 0"))
    driver.run(one("s3", "2-00000002"))
    driver.do(WorkerDied(driver.workers[-1], "signal SIGSEGV", X))
    start = driver.do(Fetched(A.sha256))[0]
    assert isinstance(start, StartWorker)
    assert start.poisoned == (X,)
    assert driver.crashes == (Crash("faces", "2-00000002", "s3", X, 2, "signal SIGSEGV"),)


@pytest.mark.parametrize(("first", "second"), [(X, Y), ("loading", "loading"), (X, "loading"), (None, X)])
def test_two_deaths_by_different_frames_or_loads_fail_the_slice_rule_10(first: Any, second: Any) -> None:
    driver = Driver()
    driver.run(one())
    crash(driver, first)
    driver.do(WorkerDied(driver.workers[-1], "signal SIGSEGV", second))
    assert driver.report[OLD][0] == "failed"


def test_crashes_are_told_for_a_quarter_of_an_hour_and_bounded() -> None:
    driver = Driver()
    driver.run(one())
    for number in range(40):
        crash(driver, FrameName("cam", "00000000000000aa", number), 61.0 if number < 5 else 0.0)
        driver.assign()
        driver.do(WorkerDied(driver.workers[-1], "exit code 0"))
        driver.run(one())
    assert len(driver.crashes) == 32
    assert driver.crashes[-1].frame == FrameName("cam", "00000000000000aa", 39)
    driver.do(Tick(), 901.0)
    assert driver.crashes == ()


class AnyOrder(RuleBasedStateMachine):
    """Assignments, workers and downloads in any order: what is held is always told, and never twice."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = Agent(150 * MB, 10 * MB, spare=True)
        self.now = 0.0
        self.counter = 0
        self.alive: dict[int, SliceAssignment] = {}
        self.spares: set[int] = set()
        self.stopped: set[int] = set()
        self.emptied: set[int] = set()
        self.fetching: set[str] = set()
        self.wanted: tuple[SliceAssignment, ...] = ()
        self.report: PublishReport | None = None

    def _do(self, event: Event) -> None:
        self.now += 1.0
        for action in self.agent.handle(event, self.now):
            if isinstance(action, StartWorker):
                assert action.worker not in self.alive
                self.alive[action.worker] = action.slice
            elif isinstance(action, StartSpare):
                assert not self.spares - self.stopped
                assert not self.emptied & self.alive.keys()
                self.spares.add(action.worker)
            elif isinstance(action, RetaskWorker):
                assert action.worker not in self.stopped
                assert action.number not in self.alive
                if action.worker in self.spares:
                    self.spares.remove(action.worker)
                else:
                    old = self.alive.pop(action.worker)
                    assert old not in self.wanted
                    assert (old.artifact, old.takes, old.gives) == (
                        action.slice.artifact,
                        action.slice.takes,
                        action.slice.gives,
                    )
                assert action.slice in self.wanted
                self.alive[action.number] = action.slice
            elif isinstance(action, EmptyWorker):
                assert action.worker not in self.stopped
                assert not self.spares - self.stopped
                assert self.alive[action.worker] not in self.wanted
                self.alive[action.number] = self.alive.pop(action.worker)
                self.stopped.add(action.number)
                self.emptied.add(action.number)
            elif isinstance(action, StopWorker):
                assert action.worker in self.alive or action.worker in self.spares
                assert action.worker not in self.stopped
                self.stopped.add(action.worker)
            elif isinstance(action, Fetch):
                assert action.artifact.sha256 not in self.fetching
                self.fetching.add(action.artifact.sha256)
            elif isinstance(action, CancelFetch):
                self.fetching.remove(action.sha256)
            elif isinstance(action, PublishReport):
                self.report = action

    @rule(names=st.sets(st.sampled_from(["s0", "s1", "s2"])), number=st.integers(1, 2))
    def assign(self, names: set[str], number: int) -> None:
        self.counter += 1
        artifacts = {"s0": A, "s1": B, "s2": A}
        self.wanted = tuple(
            one(name, f"{number}-0000000{number}", artifacts[name], 40 * MB) for name in sorted(names)
        )
        self._do(AssignmentReceived(Assignment("n1", Stamp(1, "aa", self.counter), self.wanted)))

    @precondition(lambda self: self.fetching)
    @rule(data=st.data(), how=st.sampled_from(["done", "again", "final"]))
    def fetch_ends(self, data: st.DataObject, how: str) -> None:
        sha256 = data.draw(st.sampled_from(sorted(self.fetching)))
        self.fetching.remove(sha256)
        self._do(Fetched(sha256) if how == "done" else FetchFailed(sha256, "why", how == "final"))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), how=st.sampled_from(["ready", "failed", "died"]))
    def worker_speaks(self, data: st.DataObject, how: str) -> None:
        worker = data.draw(st.sampled_from(sorted(self.alive)))
        if how == "died":
            del self.alive[worker]
            self._do(WorkerDied(worker, "signal"))
        else:
            self._do(WorkerReady(worker) if how == "ready" else WorkerFailed(worker, "why"))

    @precondition(lambda self: self.emptied & self.alive.keys())
    @rule()
    def a_worker_has_given_up_its_slice(self) -> None:
        (worker,) = self.emptied & self.alive.keys()
        del self.alive[worker]
        self.emptied.remove(worker)
        self.stopped.remove(worker)
        self.spares.add(worker)
        self._do(WorkerEmpty(worker))

    @precondition(lambda self: self.spares)
    @rule(data=st.data())
    def a_spare_dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.spares)))
        self.spares.remove(worker)
        self._do(WorkerDied(worker, "exit code 0"))

    @rule()
    def time_passes(self) -> None:
        self.now += 40.0
        self._do(Tick())

    @invariant()
    def every_worker_is_reported_and_every_wanted_slice_is_held(self) -> None:
        if self.report is None:
            return
        told = [(s.pipeline, s.revision, s.slice) for s in self.report.slices]
        assert len(told) == len(set(told))
        running = [(s.pipeline, s.revision, s.slice) for s in self.alive.values()]
        assert len(running) == len(set(running)), "two workers for one slice"
        wanted = {(s.pipeline, s.revision, s.slice) for s in self.wanted}
        assert set(told) == wanted | set(running)
        ready = {(s.pipeline, s.revision, s.slice) for s in self.report.slices if s.state == "ready"}
        assert ready <= set(running)

    @invariant()
    def unwanted_workers_have_been_told_to_stop(self) -> None:
        for worker, held in self.alive.items():
            assert worker in self.stopped or held in self.wanted


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
