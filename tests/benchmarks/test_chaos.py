"""benchmarks.chaos: the seed makes the schedule, the tally sees every kind of harm, and a short run holds."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chaos_check import Tally
from benchmarks.chaos_client import digest_of, load_frames, save_frames
from benchmarks.chaos_faults import World
from benchmarks.chaos_plan import KINDS, Planned, aimed, faults, possible

NODES = ("n1", "n2", "n3", "n4")
CLIENTS = ("client-1", "client-2")


def drawn(seed: int, count: int = 5 * len(KINDS)) -> list[Planned]:
    return list(itertools.islice(faults(seed, KINDS, NODES, CLIENTS, ("n1", "n3"), 4.0), count))


def test_the_schedule_follows_from_the_seed() -> None:
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_comes_as_often_on_what_it_is_for(seed: int) -> None:
    found = drawn(seed)
    assert {kind.name: sum(one.kind == kind.name for one in found) for kind in KINDS} == {k.name: 5 for k in KINDS}
    for one in found:
        kind = next(kind for kind in KINDS if kind.name == one.kind)
        low, high = kind.lasts
        assert low <= one.lasts <= high
        expected = {"node": NODES, "nodes": NODES, "client": CLIENTS}.get(kind.on, (kind.on,))
        assert set(one.targets) <= set(("n1", "n3") if kind.disks and kind.on == "node" else expected)
        assert len(set(one.targets)) == (2 if kind.on == "nodes" else 1)


def test_every_kind_can_be_carried_out() -> None:
    for kind in KINDS:
        assert callable(getattr(World, "_" + kind.name.replace("-", "_"))), kind.name


def test_what_cannot_be_done_here_is_left_out() -> None:
    assert not any(kind.isolated for kind in possible(isolated=False, stored=True))
    assert "broker-emptied" not in {kind.name for kind in possible(isolated=True, stored=False)}
    assert possible(isolated=True, stored=True) == list(KINDS)


def test_most_faults_of_nodes_hit_one_that_serves() -> None:
    found = [(one, aimed(one, ["n2"])) for one in drawn(5, 500)]
    single = [(one, hit) for one, hit in found if one.kind in ("node-kill", "worker-freeze", "link-down")]
    share = sum(hit.targets == ("n2",) for _, hit in single) / len(single)
    assert 0.6 < share < 1.0
    for one, hit in found:
        assert aimed(one, []) == one
        if len(one.targets) == 2 or one.targets[0] not in NODES or "disk" in one.kind:
            assert hit == one


def line(number: int, digest: str = "", **more: Any) -> dict[str, Any]:
    digest = digest or ("a", "b")[number % 2]
    return {"n": number, "at": 1.0 + number, "attempts": 1, "digest": digest, "revision": "1-00000000", **more}


END = {"stats": {"submitted": 4}}


def judged(*lines: dict[str, Any]) -> Tally:
    tally = Tally(("a", "b"))
    for one in lines:
        tally.take(one)
    return tally


def test_a_sound_stream() -> None:
    tally = judged(*(line(number) for number in range(4)), END)
    assert tally.sound
    assert [gap for gap, _ in tally.gaps] == [1.0, 1.0, 1.0]
    # Before its end nothing is known of what is lost.
    assert not judged(*(line(number) for number in range(4))).sound


@pytest.mark.parametrize(
    ("lines", "harm"),
    [
        ([line(0), line(1), line(2), END], "lost"),
        ([line(0), line(1), line(1), line(2), line(3), END], "doubled"),
        ([line(0), line(2), line(3), END], "disordered"),
        ([line(0), line(1), line(2, "b"), line(3), END], "different"),
        ([line(0), line(1, error="gave-up"), line(2), line(3), END], "failed"),
    ],
)
def test_every_harm_is_counted(lines: list[dict[str, Any]], harm: str) -> None:
    """Rule 5: each submitted frame ends exactly once, in order."""
    tally = judged(*lines)
    assert getattr(tally, harm) == 1
    assert not tally.sound


def test_frames_and_digests(tmp_path: Path) -> None:
    frames = [{7: np.arange(6, dtype=np.float32).reshape(2, 3)}, {7: np.zeros((2, 3), np.float32)}]
    save_frames(tmp_path / "x.npz", frames)
    again = load_frames(tmp_path / "x.npz")
    assert [digest_of(frame) for frame in again] == [digest_of(frame) for frame in frames]
    assert digest_of(frames[0]) != digest_of(frames[1])
    assert digest_of({7: np.array([-0.0], np.float32)}) != digest_of({7: np.array([0.0], np.float32)})
    assert digest_of({7: np.zeros((2, 3), np.float32)}) != digest_of({7: np.zeros((3, 2), np.float32)})


@pytest.mark.slow
def test_a_short_run_loses_nothing(tmp_path: Path) -> None:
    words = ["--frames", "200", "--faults", "4", "--gap", "1", "--seed", "3", "--format", "json", "--loopback"]
    words += ["--only", "agent-kill", "worker-kill", "broker-kill", "coordinator-kill"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *words, "--keep", str(tmp_path / "logs")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    body = json.loads(done.stdout)
    assert body["held"]
    assert body["frames"] >= 200
    assert body["frames"] == body["submitted"]
    assert sum(body["faults"].values()) >= 4
