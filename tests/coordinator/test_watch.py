"""What a watched folder's files lead to: pure decisions."""

from __future__ import annotations

import pytest

from coordinator.watch import MOST_FILES, Deploy, Found, Read, Say, Served, Watch, by_pipeline

A, B, C = "a" * 64, "b" * 64, "c" * 64


class Desk:
    """A watcher whose files hold what `contents` says; each look is a second after the one before."""

    def __init__(self, settle: float = 2.0) -> None:
        self.watch = Watch(settle)
        self.now = 0.0
        self.files: dict[str, tuple[str, float]] = {}
        self.served: dict[str, Served] = {}

    def put(self, path: str, sha256: str, changed: float = 0.0) -> None:
        self.files[path] = (sha256, changed)

    def look(self, times: int = 1) -> list[str]:
        """What was deployed and said, in words; files are read at once."""
        words = []
        for _ in range(times):
            listing = [Found(path, 10, changed) for path, (_, changed) in self.files.items()]
            for step in self.watch.look(self.now, listing, self.served):
                if isinstance(step, Read):
                    sha256 = self.files[step.found.path][0]
                    bad = sha256.startswith("bad")
                    self.watch.on_read(step.found, "" if bad else sha256, "not a model" if bad else "")
                elif isinstance(step, Deploy):
                    words.append(f"{step.pipeline} {step.found.path} {step.sha256[0]}")
                else:
                    assert isinstance(step, Say)
                    words.append(step.text)
            self.now += 1.0
        return words


def test_a_file_is_deployed_once_it_has_stood_still() -> None:
    desk = Desk(settle=2.0)
    desk.put("faces.tflite", A, 1.0)
    assert desk.look(2) == []
    desk.put("faces.tflite", A, 2.0)
    assert desk.look(2) == []
    assert desk.look(10) == ["faces faces.tflite a"]


def test_a_changed_file_is_deployed_and_the_first_one_again_when_it_comes_back() -> None:
    desk = Desk()
    words = []
    for when, sha256 in enumerate((A, B, A)):
        desk.put("faces.tflite", sha256, float(when))
        words += desk.look(10)
    assert words == ["faces faces.tflite a", "faces faces.tflite b", "faces faces.tflite a"]


def test_a_touched_file_deploys_nothing() -> None:
    desk = Desk()
    desk.put("faces.tflite", A)
    desk.look(10)
    desk.put("faces.tflite", A, 50.0)
    assert desk.look(10) == []


def test_a_restart_deploys_nothing_that_runs_or_is_being_rolled_out() -> None:
    desk = Desk()
    desk.put("faces.tflite", A, 100.0)
    desk.put("birds.tflite", B, 100.0)
    desk.served = {"faces": Served(frozenset({A})), "birds": Served(frozenset({C}))}
    assert desk.look(10) == ["birds birds.tflite b"]


@pytest.mark.parametrize(("begun", "deployed"), [(101.0, False), (99.0, True)])
def test_a_restart_tries_nothing_again_that_was_tried_since_the_file_changed(begun: float, deployed: bool) -> None:
    """It failed, or an operator went back from it: the file has had its turn."""
    desk = Desk()
    desk.put("faces.tflite", A, 100.0)
    desk.served = {"faces": Served(frozenset({B}), {A: begun, B: 50.0})}
    assert bool(desk.look(10)) is deployed


def test_a_failed_rollout_waits_for_the_file_to_change() -> None:
    desk = Desk()
    desk.put("faces.tflite", A)
    assert desk.look(10) == ["faces faces.tflite a"]
    desk.watch.on_failed(desk.now, "faces", A, again=False)
    assert desk.look(200) == []
    desk.put("faces.tflite", B, 1.0)
    assert desk.look(10) == ["faces faces.tflite b"]


def test_without_coordinator_it_is_tried_again_more_and_more_seldom() -> None:
    desk = Desk(settle=0.0)
    desk.put("faces.tflite", A)
    assert desk.look(2) == ["faces faces.tflite a"]
    gaps = []
    for _ in range(6):
        desk.watch.on_failed(desk.now, "faces", A, again=True)
        before = desk.now
        while not desk.look():
            pass
        gaps.append(desk.now - 1.0 - before)
    assert gaps == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_what_came_to_run_meanwhile_is_not_tried_again() -> None:
    desk = Desk(settle=0.0)
    desk.put("faces.tflite", A)
    desk.look(2)
    desk.watch.on_failed(desk.now, "faces", A, again=True)
    desk.served = {"faces": Served(frozenset({A}))}
    assert desk.look(100) == []


def test_a_failure_of_an_older_file_changes_nothing() -> None:
    desk = Desk(settle=0.0)
    desk.put("faces.tflite", A)
    desk.look(2)
    desk.put("faces.tflite", B, 1.0)
    desk.look(2)
    desk.watch.on_failed(desk.now, "faces", A, again=True)
    assert desk.look(100) == []


def test_a_bad_file_is_named_once_and_skipped() -> None:
    desk = Desk()
    desk.put("faces.tflite", "bad")
    desk.put("birds.tflite", B)
    assert desk.look(20) == ["faces.tflite: not a model", "birds birds.tflite b"]
    desk.put("faces.tflite", A, 1.0)
    assert desk.look(20) == ["faces faces.tflite a"]


def test_the_highest_version_wins() -> None:
    desk = Desk()
    desk.put("faces/9.tflite", A)
    desk.put("faces/10.tflite", B)
    assert desk.look(20) == ["faces faces/10.tflite b"]
    desk.put("faces/v1.2.tflite", C)
    assert desk.look(20) == []


def test_below_a_bad_version_the_next_one_counts() -> None:
    desk = Desk()
    desk.put("faces/1.tflite", A)
    desk.put("faces/2.tflite", "bad")
    assert desk.look(20) == ["faces/2.tflite: not a model", "faces faces/1.tflite a"]


def test_a_version_that_is_still_written_holds_the_lower_ones_back() -> None:
    desk = Desk(settle=3.0)
    desk.put("faces/1.tflite", A)
    for when in range(10):
        desk.put("faces/2.tflite", B, float(when))
        assert desk.look() == []
    assert desk.look(10) == ["faces faces/2.tflite b"]


def test_a_file_and_a_folder_of_one_name_are_refused() -> None:
    desk = Desk()
    desk.put("faces.tflite", A)
    desk.put("faces/1.tflite", B)
    (text,) = desk.look(20)
    assert "both faces.tflite and faces/" in text


def test_a_removed_file_changes_nothing() -> None:
    desk = Desk()
    desk.put("faces/1.tflite", A)
    desk.put("faces/2.tflite", B)
    desk.served = {"faces": Served(frozenset({B}), {A: 10.0, B: 20.0})}
    assert desk.look(10) == []
    del desk.files["faces/2.tflite"]
    assert desk.look(10) == []


def test_names_that_are_none_are_told_and_others_are_left_alone() -> None:
    names = ("Faces.tflite", "faces.txt", ".hidden.tflite", "a/b/c.tflite", "faces.tflite.part", "ok.tflite")
    pipelines, faults = by_pipeline([Found(name, 1, 0.0) for name in names])
    assert list(pipelines) == ["ok"]
    (fault,) = faults
    assert fault.startswith("Faces.tflite: 'Faces' cannot be a pipeline's name")


def test_too_many_files_are_refused() -> None:
    watch = Watch(0.0)
    (step,) = watch.look(0.0, [Found(f"m{n}.tflite", 1, 0.0) for n in range(MOST_FILES + 1)], {})
    assert isinstance(step, Say)
    assert "expected at most 4096" in step.text
