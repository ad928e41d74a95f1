"""Cores, memory and speeds: fake systems with control groups of both versions, and one real measurement."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edge_node import capacity
from edge_node.capacity import CLASSES, Board, measure_speeds, read_board, slice_memory, usable
from edge_node.cgroups import Limits, read_limits
from edge_node.runtime import RUNTIMES
from slicemq.errors import RuntimeUnavailableError, SliceMQError
from tests.runtimes import EACH_RUNTIME

V1_MOUNTS = """\
25 20 0:22 / /proc rw - proc proc rw
30 20 0:26 {base} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 20 0:27 {base} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
"""
V2_MOUNTS = "30 20 0:26 {base} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
MEMINFO = "MemTotal:  8000000 kB\nMemFree:  10 kB\nMemAvailable:  4000000 kB\n"


class System:
    """A fake root folder."""

    def __init__(self, root: Path, groups: str, mounts: str, base: str = "/") -> None:
        self.root = root
        self.write("proc/self/cgroup", groups)
        self.write("proc/self/mountinfo", mounts.format(base=base))
        self.write("proc/meminfo", MEMINFO)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def v1(self, group: str, *, quota: int = -1, period: int = 100_000, limit: int = 9223372036854771712) -> None:
        cpu, memory = f"sys/fs/cgroup/cpu,cpuacct{group}", f"sys/fs/cgroup/memory{group}"
        self.write(f"{cpu}/cpu.cfs_quota_us", f"{quota}\n")
        self.write(f"{cpu}/cpu.cfs_period_us", f"{period}\n")
        self.write(f"{memory}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{memory}/memory.usage_in_bytes", "100000000\n")
        self.write(f"{memory}/memory.stat", "cache 1\ninactive_file 7\ntotal_inactive_file 30000000\n")

    def v2(self, group: str, *, cpu: str = "max 100000", most: str = "max", high: str = "max") -> None:
        folder = f"sys/fs/cgroup{group}"
        self.write(f"{folder}/cpu.max", cpu + "\n")
        self.write(f"{folder}/memory.max", most + "\n")
        self.write(f"{folder}/memory.high", high + "\n")
        self.write(f"{folder}/memory.current", "100000000\n")
        self.write(f"{folder}/memory.stat", "anon 5\ninactive_file 30000000\n")


def test_v1_without_limits(tmp_path: Path) -> None:
    system = System(tmp_path, "4:memory:/a\n2:cpu,cpuacct:/a\n", V1_MOUNTS)
    system.v1("/a")
    system.v1("")
    assert read_limits(tmp_path) == Limits(None, None)


def test_v1_quota_and_memory_of_the_own_group(tmp_path: Path) -> None:
    system = System(tmp_path, "4:memory:/a/b\n2:cpu,cpuacct:/a/b\n1:name=systemd:/x\n", V1_MOUNTS)
    system.v1("/a/b", quota=20_000, limit=500_000_000)
    system.v1("/a")
    # 100 MB in use, 30 MB of it page cache that the kernel gives back.
    assert read_limits(tmp_path) == Limits(0.2, 430_000_000, 0.02)


def test_v1_the_least_limit_of_all_ancestors_counts(tmp_path: Path) -> None:
    system = System(tmp_path, "4:memory:/a/b\n2:cpu,cpuacct:/a/b\n", V1_MOUNTS)
    system.v1("/a/b", quota=150_000, limit=900_000_000)
    system.v1("/a", quota=10_000, period=20_000, limit=600_000_000)
    assert read_limits(tmp_path) == Limits(0.5, 530_000_000, 0.01)


def test_v1_in_a_container_whose_group_is_named_as_the_host_names_it(tmp_path: Path) -> None:
    system = System(tmp_path, "4:memory:/docker/c1\n2:cpu,cpuacct:/docker/c1\n", V1_MOUNTS, base="/docker/c1")
    system.v1("", quota=50_000, limit=300_000_000)
    assert read_limits(tmp_path) == Limits(0.5, 230_000_000, 0.05)


def test_v1_with_a_group_that_does_not_exist_here_uses_the_mount(tmp_path: Path) -> None:
    system = System(tmp_path, "4:memory:/elsewhere\n2:cpu,cpuacct:/elsewhere\n", V1_MOUNTS)
    system.v1("", quota=50_000)
    assert read_limits(tmp_path).cores == 0.5


def test_v2_quota_and_memory_of_all_ancestors(tmp_path: Path) -> None:
    system = System(tmp_path, "0::/system.slice/node.service\n", V2_MOUNTS)
    system.v2("/system.slice/node.service", cpu="max 100000", most="900000000")
    system.v2("/system.slice", cpu="40000 20000", most="max", high="700000000")
    assert read_limits(tmp_path) == Limits(2.0, 630_000_000, 0.04)


def test_v2_in_its_own_namespace(tmp_path: Path) -> None:
    system = System(tmp_path, "0::/\n", V2_MOUNTS)
    system.v2("", cpu="20000 100000", most="200000000")
    assert read_limits(tmp_path) == Limits(0.2, 130_000_000, 0.02)


def test_v2_outside_the_mounted_tree(tmp_path: Path) -> None:
    system = System(tmp_path, "0::/../other\n", V2_MOUNTS)
    system.v2("", cpu="20000 100000")
    assert read_limits(tmp_path).cores == 0.2


def test_mixed_systems_where_version_2_holds_no_controller(tmp_path: Path) -> None:
    mounts = V1_MOUNTS + "32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    system = System(tmp_path, "4:memory:/a\n2:cpu,cpuacct:/a\n0::/\n", mounts)
    (tmp_path / "sys/fs/cgroup/unified").mkdir(parents=True)
    system.v1("/a", quota=25_000)
    assert read_limits(tmp_path) == Limits(0.25, None, 0.025)


@pytest.mark.parametrize("text", ["", "garbage", "max", "-5 0", "10 0", "a b"])
def test_files_of_another_shape_do_not_limit(tmp_path: Path, text: str) -> None:
    system = System(tmp_path, "0::/\n", V2_MOUNTS)
    system.v2("", cpu=text, most=text if text != "-5 0" else "x")
    assert read_limits(tmp_path) == Limits(None, None)


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == Limits(None, None)


def test_the_board_offers_the_least_of_what_is_free_and_what_is_allowed(tmp_path: Path) -> None:
    system = System(tmp_path, "0::/\n", V2_MOUNTS)
    system.v2("", cpu="20000 100000", most="1000000000")
    system.write("proc/cpuinfo", "processor : 0\nmodel name : Test CPU 3000\n")
    board = read_board(root=tmp_path, reserve=50_000_000)
    assert board == Board(
        os.uname().machine, "Test CPU 3000", 0.2, 1, 930_000_000 - 50_000_000 - capacity.AGENT_MARGIN, 0.02
    )
    assert read_board(root=tmp_path, memory_limit=5_000_000).memory == 5_000_000
    assert read_board(root=tmp_path, reserve=10**12).memory == 0
    system.v2("", most="max")
    assert read_board(root=tmp_path).memory == 4_000_000 * 1024 - capacity.AGENT_MARGIN


def test_cores_count_the_affinity_and_threads_are_whole_cores(tmp_path: Path) -> None:
    own = len(os.sched_getaffinity(0))
    board = read_board(root=tmp_path)
    assert (board.cores, board.threads) == (own, own)
    assert read_board(root=tmp_path, threads=7).threads == 7


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_real_speeds_are_measured_in_time_and_then_taken_from_disk(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "speeds.json"
    board = read_board(threads=1)
    measured = measure_speeds(board, runtime, file)
    assert set(measured.speeds) == set(CLASSES)
    assert measured.runtime.name == runtime
    assert "raw" in measured.codecs
    assert measured.operators["CONV_2D"] >= 7
    assert measured.operators["BROADCAST_TO"] >= 3
    # An idle worker: issue 2 allows 60 MB with either runtime.
    assert 20_000_000 < measured.worker_memory <= 60_000_000
    assert slice_memory(board, measured) == board.memory - measured.worker_memory
    monkeypatch.setattr(capacity, "_child", lambda task: pytest.fail("measured again"))
    assert measure_speeds(board, runtime, file) == measured


def test_speeds_follow_the_quota_and_are_measured_anew_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "speeds.json"
    asked: list[float] = []

    def child(task: dict[str, Any]) -> dict[str, object]:
        if task["task"] == "operators":
            return {"operators": {"ADD": 3}}
        asked.append(task["cores"])
        speeds = dict.fromkeys(CLASSES, 100.0 * task["cores"])
        runtime = {"name": "ai_edge_litert", "version": "2"}
        return {"runtime": runtime, "speeds": speeds, "worker_memory": 5, "codecs": ["raw"]}

    monkeypatch.setattr(capacity, "_child", child)
    for cores in (1.0, 0.5, 0.5):
        measure_speeds(Board("x", "cpu", cores, 1, 0), "auto", file)
    assert asked == [1.0, 0.5]
    file.write_text("damaged")
    measure_speeds(Board("x", "cpu", 0.5, 1, 0), "auto", file)
    body = json.loads(file.read_text())
    for field, value in (("speeds", {"conv": -1}), ("operators", {"ADD": 0}), ("operators", None)):
        file.write_text(json.dumps({**body, field: value}))
        measured = measure_speeds(Board("x", "cpu", 0.5, 1, 0), "auto", file)
        assert (measured.speeds["conv"], measured.operators) == (50.0, {"ADD": 3})
    # What an earlier version of the software has kept.
    file.write_text(json.dumps({key: value for key, value in body.items() if key != "operators"}))
    assert measure_speeds(Board("x", "cpu", 0.5, 1, 0), "auto", file).operators == {"ADD": 3}
    assert asked == [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_a_runtime_that_cannot_be_asked_is_assumed_to_know_everything_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def child(task: dict[str, Any]) -> dict[str, object]:
        if task["task"] == "operators":
            raise SliceMQError("ended with code -11")
        speeds = dict.fromkeys(CLASSES, 100.0)
        return {"runtime": {"name": "x", "version": "2"}, "speeds": speeds, "worker_memory": 5, "codecs": ["raw"]}

    monkeypatch.setattr(capacity, "_child", child)
    file = tmp_path / "speeds.json"
    assert measure_speeds(Board("x", "cpu", 1.0, 1, 0), "auto", file).operators == {}
    assert "ended with code -11: every operator is assumed" in caplog.text
    assert not file.exists()


def test_a_child_that_measures_nonsense_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"runtime": {"name": "x", "version": "1"}, "speeds": {"conv": 1.0}, "worker_memory": 1, "codecs": []}
    monkeypatch.setattr(capacity, "_child", lambda task: body)
    with pytest.raises(SliceMQError, match="expected a positive number for each of"):
        measure_speeds(Board("x", "cpu", 1.0, 1, 0), "auto", tmp_path / "speeds.json")


def test_a_runtime_may_lack_a_class_but_none_of_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {name: 10.0 for name in CLASSES if "-" not in name}
    body = {"runtime": {"name": "x", "version": "1"}, "speeds": speeds, "worker_memory": 1, "codecs": []}
    monkeypatch.setattr(capacity, "_child", lambda task: body if task["task"] == "speeds" else {"operators": {}})
    board = Board("x", "cpu", 1.0, 1, 0)
    assert measure_speeds(board, "auto", tmp_path / "speeds.json").speeds == speeds
    for change in ({"conv": float("inf")}, {"conv-int8": 0.0}, {"none": 1.0}):
        body["speeds"] = {**speeds, **change}
        with pytest.raises(SliceMQError, match="expected a positive number for each of"):
            measure_speeds(board, "auto", tmp_path / "other.json")


def test_without_a_runtime_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Modules of the runtimes' names that cannot be imported stand in front of the real ones.
    for name in RUNTIMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('built for another numpy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match=r"another numpy.*pip install 'slicemq\[litert\]'"):
        measure_speeds(read_board(), "auto", tmp_path / "speeds.json")


@pytest.mark.parametrize(
    ("cores", "burst", "expected"),
    [
        (4.0, None, 4.0),
        (1.0, 0.1, 1.0),
        (0.5, None, 0.5),
        (0.3, 0.006, 0.28),
        (0.1, 0.002, 0.085),
        (0.01, 0.0004, 0.004),
        (0.002, 0.0001, 0.0002),
    ],
)
def test_what_a_quota_leaves_for_slices(cores: float, burst: float | None, expected: float) -> None:
    board = Board("x86_64", "cpu", cores, 1, 0, burst)
    assert usable(board) == pytest.approx(expected)
