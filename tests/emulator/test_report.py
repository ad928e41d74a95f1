"""Reports from measurements by hand: figures, medians, energy beside one device, text and pictures."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from emulator.energy import EnergyModel
from emulator.figures import Answer, figures
from emulator.measure import Measured
from emulator.plots import draw
from emulator.report import plan_row, repeat_row, report, variant_row
from emulator.scenario import Deployment, Event, Load, NodeType, Run, Scenario
from emulator.summary import as_text
from emulator.timeline import Action, Consequence, Happened
from emulator.usage import NodeUse
from slicemq.errors import MissingDependencyError

PLAN: dict[str, Any] = {
    "period_ms": 100.0,
    "lower_bound_ms": 80.0,
    "latency_ms": 150.0,
    "family": "contiguous-one-per-node",
    "method": "exact-counts",
    "window": 3,
    "objective": "period",
    "slices": [{"id": "s0", "nodes": ["pi1"]}],
}


def _scenario(count: int) -> Scenario:
    kind = NodeType("pi", count, cpu=0.1, up=1e8, down=2e8, energy=EnergyModel(2.0, 7.0, 0.5))
    return Scenario(
        "try", "A try", nodes=(kind,), deployments=(Deployment("p", "x"),), load=Load(seconds=10.0), run=Run(3),
        values={"nodes": count},
    )  # fmt: skip


def _measured(frames: int, nodes: dict[str, NodeUse], began: float = 100.0) -> Measured:
    step = 10.0 / frames
    answers = tuple(
        Answer(0, n, began + step * n - 0.2, began + step * n, 0.2, "1-aaaaaaaa", 1, equal=True)
        for n in range(frames)
    )
    found = figures(answers, began, began + 10.0)
    return Measured(began, began + 10.0, 3, found, answers, nodes, 0.5, 0.25, 0.4)


KILL = Consequence(
    Happened(Action(2.0, "kill", Event(2.0, "kill", "pi1")), 102.5, 102.6), "1-aaaaaaaa", "2-bbbbbbbb", 1.5, 1.6
)


def _variant(count: int, *frames: int) -> dict[str, Any]:
    scenario = _scenario(count)
    use = NodeUse(cpu=0.5, sent=20e6, received=80e6, invoke=4.0, invoke_cpu=0.4, frames=50)
    boards = scenario.boards()
    rows = [
        repeat_row(_measured(n, {board.name: use for board in boards}), boards, [KILL] if count > 1 else [], 2)
        for n in frames
    ]
    return variant_row(scenario, [plan_row("p", "x", "1-aaaaaaaa", PLAN)], rows)


@pytest.fixture
def body() -> dict[str, Any]:
    return report(
        _scenario(2),
        [_variant(1, 50, 40, 45), _variant(2, 100, 80, 90)],
        [{"values": {"nodes": 3}, "error": "no room", "exit_code": 21}],
        machine={"processor": "Z80", "processors": 2, "kernel": "Linux 6"},
        versions={"slicemq": "0.1"},
        began="2026-01-01T00:00:00+00:00",
        seconds=99.0,
        isolated=True,
    )


def test_a_node_is_reported_by_frame_and_by_its_share(body: dict[str, Any]) -> None:
    node = body["variants"][0]["repeats"][0]["nodes"]["pi1"]
    assert node["cpu_ms_per_frame"] == pytest.approx(10.0)
    # 0.5 s of a tenth of a processor over 10 s: half of it.
    assert node["cpu_share"] == pytest.approx(0.5)
    assert node["busy"] == pytest.approx(0.4)
    assert node["sent_mb_per_frame"] == pytest.approx(0.4)
    assert node["received_mb_per_frame"] == pytest.approx(1.6)
    # 10 s x 2 W, 5 s busy x 5 W, 100 MB x 0.5 J: 95 J over 50 frames.
    assert node["energy_j"] == pytest.approx({"idle": 20.0, "busy": 25.0, "moved": 50.0})
    assert node["energy_j_per_frame"] == pytest.approx(1.9)


def test_medians_are_over_the_repeats(body: dict[str, Any]) -> None:
    one, two = (variant["median"] for variant in body["variants"])
    assert (one["rate"], two["rate"]) == (pytest.approx(4.5), pytest.approx(9.0))
    assert one["latency_ms"]["p95"] == pytest.approx(200.0)
    assert two["nodes"]["pi2"]["cpu_ms_per_frame"] == pytest.approx(500.0 / 90)
    assert one["broker_cpu_ms_per_frame"] == pytest.approx(500.0 / 45)


def test_each_variant_stands_beside_the_one_with_one_node(body: dict[str, Any]) -> None:
    one, two = (variant["beside_one"] for variant in body["variants"])
    assert one == pytest.approx({"rate": 1.0, "energy": 1.0, "energy_per_node": 1.0})
    # Twice the frames for each node's 95 J: half the energy a node, as much in all.
    assert two == pytest.approx({"rate": 2.0, "energy": 1.0, "energy_per_node": 0.5})


def test_the_plan_says_its_rate_and_its_bound(body: dict[str, Any]) -> None:
    (plan,) = body["variants"][0]["deployments"]
    assert plan["planned_rate"] == pytest.approx(10.0)
    assert plan["bound_rate"] == pytest.approx(12.5)
    assert plan_row("p", "x", "r", {**PLAN, "objective": "latency"})["bound_rate"] is None


def test_an_event_says_when_and_what_came_of_it(body: dict[str, Any]) -> None:
    (event,) = body["variants"][1]["repeats"][0]["events"]
    assert event["what"] == "kill pi1"
    assert (event["planned_at"], event["at"], event["took"]) == pytest.approx((2.0, 2.5, 0.1))
    assert (event["recovery_seconds"], event["new_revision"]) == (1.5, "2-bbbbbbbb")


def test_what_is_not_known_is_null_and_the_report_is_json() -> None:
    scenario = _scenario(1)
    rows = [repeat_row(_measured(5, {"pi1": NodeUse()}), scenario.boards(), [], 2)]
    made = report(
        scenario,
        [variant_row(scenario, [plan_row("p", "x", "r", PLAN)], rows)],
        machine={"processor": "", "processors": 2, "kernel": ""},
        versions={},
        began="",
        seconds=1.0,
        isolated=False,
    )
    node = made["variants"][0]["repeats"][0]["nodes"]["pi1"]
    assert node["cpu_seconds"] is None
    assert node["energy_j_per_frame"] is None
    assert made["variants"][0]["median"]["nodes"]["pi1"]["cpu_share"] is None
    assert made["variants"][0]["beside_one"] == {"rate": 1.0, "energy": None, "energy_per_node": None}
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert "without isolation" in as_text(made)


def test_the_text_has_variants_events_nodes_and_failures(body: dict[str, Any]) -> None:
    text = as_text(body)
    for line in (
        "nodes 2  2       1       3       9.00      10.00    72 %      200     200     270 of 270  2.00",
        "2.5   kill pi1  1.50        1.60             2-bbbbbbbb",
        "not measured (nodes 3): no room",
    ):
        assert line in text
    assert text.startswith("try: A try\nZ80, 2 processors, Linux 6; slicemq 0.1\n99 s in all; medians of 3\n")


def _fields(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {name for inner in value.values() for name in _fields(inner)}
    return {name for inner in value for name in _fields(inner)} if isinstance(value, list) else set()


def test_every_field_is_on_the_page(body: dict[str, Any]) -> None:
    page = (Path(__file__).parents[2] / "docs/reference/emulator-report.md").read_text(encoding="utf-8")
    named = {"pi1", "pi2", *EnergyModel.__dataclass_fields__, *body["versions"]}
    assert sorted(name for name in _fields(body) - named if f"`{name}`" not in page) == []


def test_pictures_are_drawn(body: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = draw(body, tmp_path / "plots")
    assert [path.name for path in made] == [
        "try-throughput-2.png",
        "try-latency.png",
        "try-nodes.png",
        "try-sweep.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


def test_without_matplotlib_the_extra_is_named(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError, match=r"slicemq\[plot\]"):
        draw(body, tmp_path)
