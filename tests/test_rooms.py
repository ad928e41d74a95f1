"""Who may import whom (docs/explanation/how-it-works.md, "The rooms"), and what an agent may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("slicemq", "converters", "coordinator", "edge_node", "ingress", "broker_config", "emulator", "simulator")
ALLOWED = {
    "slicemq": {"slicemq"},
    "converters": {"converters", "slicemq"},
    "coordinator": {"coordinator", "converters", "slicemq"},
    "edge_node": {"edge_node", "slicemq"},
    "ingress": {"ingress", "slicemq"},
    "broker_config": {"broker_config", "slicemq"},
    "emulator": set(ROOMS) - {"simulator"},
    "simulator": {"simulator", "coordinator", "edge_node", "slicemq"},
}
# The pure cores: no I/O, no locks, no clocks.
PURE = {
    "coordinator/cluster.py",
    "coordinator/state.py",
    "coordinator/publishing.py",
    "coordinator/replies.py",
    "coordinator/requests.py",
    "coordinator/jobs.py",
    "coordinator/idle.py",
    "coordinator/progress.py",
    "coordinator/membership.py",
    "coordinator/lifecycle.py",
    "coordinator/health.py",
    "coordinator/settings.py",
    "coordinator/leftovers.py",
    "coordinator/makeroom.py",
    "coordinator/rebalance.py",
    "coordinator/poison.py",
    "coordinator/preship.py",
    "coordinator/situation.py",
    "coordinator/upkeep.py",
    "coordinator/urgency.py",
    "coordinator/documents.py",
    "coordinator/intents.py",
    "coordinator/revisions.py",
    "coordinator/narrator.py",
    "coordinator/watch.py",
    "coordinator/cli/course.py",
    "coordinator/cli/drained.py",
    "coordinator/fence.py",
    "coordinator/candidates.py",
    "coordinator/echoes.py",
    "coordinator/held.py",
    "coordinator/adoption.py",
    "coordinator/standby.py",
    "coordinator/rollout.py",
    "coordinator/gate.py",
    "coordinator/asked.py",
    "edge_node/agent.py",
    "edge_node/ahead.py",
    "edge_node/crashes.py",
    "edge_node/events.py",
    "edge_node/join.py",
    "edge_node/identity.py",
    "slicemq/comparison.py",
    "slicemq/evidence.py",
    "ingress/line.py",
    "ingress/topicmap.py",
    "ingress/answers.py",
    "slicemq/ledger.py",
    "slicemq/parts.py",
    "slicemq/shadow.py",
    "slicemq/mqtt_encode.py",
    "slicemq/mqtt_packets.py",
    "slicemq/pacing.py",
    "slicemq/frames.py",
    "slicemq/transfer.py",
    "slicemq/subscriptions.py",
    "slicemq/owned.py",
    "converters/graph.py",
    "converters/slicing.py",
    "converters/flatbuffer.py",
    *(str(path.relative_to(ROOT)) for path in (ROOT / "coordinator" / "planner").rglob("*.py")),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "simulator").glob("*.py")),
}
IMPURE = {"asyncio", "os", "queue", "random", "secrets", "socket", "subprocess", "tempfile", "threading", "paho"}
# They read files that they are given, or a clock that is handed in, or draw from a seed.
EXCEPTIONS = {
    "coordinator/planner/fleet.py",
    "coordinator/planner/plan.py",
    "coordinator/planner/baselines/random_cuts.py",
    "simulator/world.py",
    "simulator/crowd.py",
}


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downwards(room: str) -> None:
    files = [path for path in (ROOT / room).rglob("*.py") if "cli" not in path.relative_to(ROOT).parts]
    assert files
    for path in files:
        wrong = imports(path) & set(ROOMS) - ALLOWED[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_nothing_imports_the_command_line() -> None:
    for path in [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]:
        if "cli" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("coordinator.cli"), path


@pytest.mark.parametrize("name", sorted(PURE - EXCEPTIONS))
def test_cores_are_pure(name: str) -> None:
    wrong = imports(ROOT / name) & IMPURE
    assert not wrong, f"{name} imports {', '.join(sorted(wrong))}"


def test_only_one_module_knows_paho() -> None:
    knowing = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if "paho" in imports(path)
    }
    assert knowing == {"slicemq/connection.py"}


def test_an_agent_loads_neither_numpy_nor_a_runtime() -> None:
    code = "import sys, edge_node.service; print(*({'numpy', 'typer', 'ai_edge_litert'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
