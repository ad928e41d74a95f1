"""Kept profiles: measured once for each model, runtime, machine and format; what is damaged is measured anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters.graph import Graph, read_graph
from converters.profile import PROFILE_FORMAT, Profile
from converters.runtime import Load
from converters.schema import Bytes
from coordinator import kept, profiles
from coordinator.profiles import machine, profile_of
from tests.converters.machine import load
from tests.converters.tiny import chain, diamond

DATA = diamond()
GRAPH = read_graph(DATA)


class Measuring:
    """Counts how often a profile is measured; each is another one."""

    def __init__(self) -> None:
        self.times = 0
        self.budgets: list[float] = []

    def __call__(self, data: Bytes, graph: Graph, load: Load, *, runtime: str, budget: float) -> Profile:
        self.times += 1
        self.budgets.append(budget)
        return Profile(dict.fromkeys(graph.steps, float(self.times)), runtime, measured=True, overhead=0.5)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Measuring:
    found = Measuring()
    monkeypatch.setattr(profiles, "measure", found)
    return found


def _profile(folder: Path, runtime: str = "runtime 1", *, fresh: bool = False) -> Profile:
    return profile_of(DATA, GRAPH, load, runtime, folder, fresh=fresh)


def test_a_profile_is_measured_once(tmp_path: Path, measuring: Measuring) -> None:
    first = _profile(tmp_path / "new" / "folder")
    assert _profile(tmp_path / "new" / "folder") == first
    assert measuring.times == 1
    assert [path.suffix for path in (tmp_path / "new" / "folder").iterdir()] == [".json"]


def test_another_runtime_model_machine_or_format_is_measured_for_itself(
    tmp_path: Path, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _profile(tmp_path)
    assert _profile(tmp_path, "runtime 2").runtime == "runtime 2"
    other = chain(3)
    profile_of(other, read_graph(other), load, "runtime 1", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(profiles, "machine", lambda: "another machine")
        _profile(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(profiles, "PROFILE_FORMAT", PROFILE_FORMAT + 1)
        _profile(tmp_path)
    assert measuring.times == 5
    assert _profile(tmp_path) == first
    assert measuring.times == 5


def test_fresh_replaces_what_is_kept(tmp_path: Path, measuring: Measuring) -> None:
    first = _profile(tmp_path)
    second = _profile(tmp_path, fresh=True)
    assert second != first
    assert _profile(tmp_path) == second
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"key": {}, "profile": {}}',
        b'{"key": 3}',
    ],
)
def test_damaged_files_are_measured_anew(tmp_path: Path, measuring: Measuring, content: bytes) -> None:
    _profile(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert _profile(tmp_path).seconds[0] == 2.0
    assert _profile(tmp_path).seconds[0] == 2.0
    assert measuring.times == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seconds", {"0": 1.0}),
        ("seconds", {str(i): 1.0 for i in range(6)}),
        ("seconds", {"0": -1.0, "1": 1.0, "2": 1.0, "3": 1.0, "4": 1.0}),
        ("seconds", {"0": float("nan"), "1": 1.0, "2": 1.0, "3": 1.0, "4": 1.0}),
        ("overhead", None),
        ("fit", []),
    ],
)
def test_files_with_other_contents_are_measured_anew(
    tmp_path: Path, measuring: Measuring, field: str, value: object
) -> None:
    _profile(tmp_path)
    (path,) = tmp_path.iterdir()
    body = json.loads(path.read_text())
    body["profile"][field] = value
    path.write_text(json.dumps(body))
    assert _profile(tmp_path).seconds[0] == 2.0
    assert measuring.times == 2


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    _profile(tmp_path)
    monkeypatch.setattr(kept, "_MAX_FILE_BYTES", 10)
    _profile(tmp_path)
    assert measuring.times == 2


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, measuring: Measuring) -> None:
    (tmp_path / "file").write_text("")
    assert _profile(tmp_path / "file").measured
    assert _profile(tmp_path / "file" / "below").measured
    assert measuring.times == 2


def test_machines_differ_by_what_computes(tmp_path: Path) -> None:
    def described(name: str, cpuinfo: str) -> str:
        root = tmp_path / name
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text(cpuinfo)
        return machine(root)

    one = "processor : 0\nmodel name : X 1\nflags : a b\ncpu MHz : {}\n\nprocessor : 1\nmodel name : X 1\n"
    assert described("a", one.format(1000)) == described("b", one.format(2000))
    assert "X 1" in described("c", one)
    assert described("d", one.replace("a b", "a b avx512")) != described("c2", one)
    assert "unknown CPU" in described("e", "")
    assert machine(tmp_path / "nothing") == described("f", "nonsense")
    assert machine() == machine()
