"""Rollouts with real nodes: golden files, canaries, shadows, and what an operator asks of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from benchmarks.upgrade_models import with_detour
from converters.graph import read_graph
from coordinator.documents import UNSTAMPED
from coordinator.revisions import specs
from edge_node.runtime import open_interpreter
from emulator.site import Site
from slicemq.messages import PipelineDocument, decode
from slicemq.operations import RolloutDocument, RolloutEntry
from slicemq.specs import tensor_keys
from tests.converters.tiny import Tiny
from tests.e2e.scene import PATIENT, STEADY, Flow, Wire, answers, deploy, failing, inputs, model, new_site, started
from tests.e2e.test_deployments import with_other_weights
from tests.waiting import eventually

JUDGED = ("--frames", "20", "--seconds", "1", "--deadline", "60")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with new_site(tmp_path_factory.mktemp("rollouts")) as site:
        yield started(site, ("n1", "n2"), coordinator=PATIENT)


@pytest.fixture
def wired(small: Site) -> Iterator[Wire]:
    """What is retained; each test has pipelines of its own, and ends them."""
    with Wire(small) as wire:
        yield wire
        for name in [row["name"] for row in small.json("status")["pipelines"]]:
            small.command("undeploy", name)


def rollouts(wire: Wire, name: str = "faces") -> RolloutDocument:
    topic = wire.topics.rollout(name)
    payload = wire.documents.get(topic)
    return decode(RolloutDocument, payload, topic) if payload else RolloutDocument(name, UNSTAMPED)


def current(wire: Wire, name: str) -> RolloutEntry | None:
    return rollouts(wire, name).current


def in_state(wire: Wire, name: str, state: str) -> RolloutEntry:
    """Wait until the rollout under way is in a state."""
    eventually(lambda: (found := current(wire, name)) is not None and found.state == state, 60.0)
    found = current(wire, name)
    assert found is not None
    return found


def ended(wire: Wire, name: str, count: int) -> RolloutEntry:
    """Wait until so many rollouts ended; the last one."""
    eventually(lambda: len(rollouts(wire, name).history) >= count, 90.0)
    return rollouts(wire, name).history[-1]


@pytest.mark.slow
def test_a_model_that_gives_other_results_than_its_golden_file_never_serves(
    small: Site, wired: Wire, tmp_path: Path
) -> None:
    """Rule 11: a flip comes only after probe frames have left every output, with the results that are expected."""
    file = model()
    other = with_other_weights(file, tmp_path / "other.tflite")
    frame = inputs(file)[0]
    whole = open_interpreter(file)
    outputs = tuple(
        np.frombuffer(data, whole.outputs[k].dtype).reshape(whole.outputs[k].shape)
        for k, data in enumerate(answers(file)[0])
    )
    golden = tmp_path / "faces.npz"
    graph = read_graph(file.read_bytes())
    names = tensor_keys(specs(graph, graph.outputs))
    expected = {f"expect.{names[t]}": array for t, array in zip(graph.outputs, outputs, strict=True)}
    np.savez(golden, **{str(graph.inputs[0]): frame, **expected})
    first = deploy(small, file, "faces", *STEADY, "--golden", str(golden))
    with Flow(small, file) as flow:
        flow.passes()
        small.command("deploy", str(other), "--name", "faces", *STEADY, "--golden", str(golden))
        entry = ended(wired, "faces", 2)
        assert entry.state == "rolled-back"
        assert "differs by" in entry.reason
        assert "at most 0.001 may be" in entry.reason
        flow.passes()
        assert flow.revisions == [first["revision"]]


@pytest.mark.slow
def test_a_good_canary_gets_its_share_and_is_promoted_by_what_clients_saw(
    small: Site, wired: Wire, tmp_path: Path
) -> None:
    """Rules 3 and 4: a frame is answered by one revision, whichever of the two it was sent to."""
    file = model()
    other = with_other_weights(file, tmp_path / "other.tflite")
    first = deploy(small, file, "tried", *STEADY)["revision"]
    with Flow(small, file, other, name="tried") as flow:
        flow.passes()
        before = flow.answered
        second = deploy(small, other, "tried", *STEADY, "--canary", "0.3", *JUDGED)["revision"]
        entry = ended(wired, "tried", 2)
        beside = flow.answered - before
        assert (entry.revision, entry.before, entry.state) == (second, first, "promoted")
        assert entry.reason.startswith("canary: ")
        assert entry.evidence["answered"] >= 20
        assert entry.evidence["failed"] == entry.evidence["before_failed"] == 0
        # Most frames stayed with what served, until it was promoted.
        assert entry.evidence["answered"] < 0.5 * beside
        eventually(lambda: [r.revision for r in document(wired, "tried").routes if r.weight] == [second], 30.0)
        flow.passes(50)
        assert flow.models_of == {first: {0}, second: {1}}


def document(wire: Wire, name: str) -> PipelineDocument:
    found = wire.pipeline(name)
    assert found is not None
    return found


@pytest.mark.slow
def test_a_slow_canary_is_rolled_back_by_the_client_s_figures(small: Site, wired: Wire, tmp_path: Path) -> None:
    file = model()
    slow = tmp_path / "slow.tflite"
    slow.write_bytes(with_detour(file, 64, side=3, times=2))
    first = deploy(small, file, "slowed", *STEADY)["revision"]
    with Flow(small, file, name="slowed", limit=1) as flow:
        flow.passes()
        text = failing(small, 42, "deploy", str(slow), "--name", "slowed", *STEADY, "--canary", "0.3", *JUDGED)
        entry = ended(wired, "slowed", 2)
        assert (entry.state, entry.before) == ("rolled-back", first)
        assert re.search(r"canary: 95 % of its frames take .* times the .* ms of", entry.reason), entry.reason
        assert entry.reason in text
        assert f"{first} serves on" in text
        eventually(lambda: [r.revision for r in document(wired, "slowed").routes if r.weight] == [first], 30.0)
        flow.passes(50)


def tangent(*, fails: bool) -> bytes:
    """x -> tanh x; with `fails` only where |x[0]| is below a third: else its GATHER has no such element."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    made = tiny.op("TANH", [x], tensor="y0")
    factor = tiny.constant(np.ones(1, np.float32))
    if fails:
        zeros, ones = (tiny.constant(np.array(size, np.int32)) for size in ([0, 0], [1, 1]))
        head = tiny.op("SLICE", [x, zeros, ones], (1, 1), options=schema.SliceOptionsT())
        thrice = tiny.constant(np.full((1, 1), 3.0, np.float32))
        head = tiny.op("MUL", [head, thrice], (1, 1), options=schema.MulOptionsT())
        index = tiny.op("CAST", [head], (1, 1), options=schema.CastOptionsT(), dtype="INT32")
        factor = tiny.op("GATHER", [factor, index], (1, 1), options=schema.GatherOptionsT())
    return tiny.build([tiny.op("MUL", [made, factor], options=schema.MulOptionsT(), tensor="y")])


@pytest.mark.slow
def test_a_slice_that_fails_its_golden_frame_is_abandoned_at_once_with_its_message(
    small: Site, wired: Wire, tmp_path: Path
) -> None:
    """Rule 11: no probe frame leaves its outputs, and nobody waits for one."""
    good, bad, golden = tmp_path / "good.tflite", tmp_path / "bad.tflite", tmp_path / "golden.npz"
    good.write_bytes(tangent(fails=False))
    bad.write_bytes(tangent(fails=True))
    frame = np.full((1, 4), 0.9, np.float32)
    np.savez(golden, **{"x": frame, "expect.y": np.tanh(frame)})
    words = (*STEADY, "--golden", str(golden))
    first = deploy(small, good, "strict", *words)["revision"]
    with Flow(small, good, name="strict") as flow:
        flow.passes()
        text = failing(small, 42, "deploy", str(bad), "--name", "strict", *words)
        entry = ended(wired, "strict", 2)
        assert entry.reason.startswith("probe frame: slice-error: ")
        assert "gather index out of bounds" in entry.reason.lower()
        assert entry.reason in text
        flow.passes()
        assert flow.revisions == [first]


@pytest.mark.slow
def test_what_a_canary_fails_is_answered_by_what_served(small: Site, wired: Wire, tmp_path: Path) -> None:
    """Rule 5: each frame ends once; a canary's error frame is not its end, and rolls the canary back."""
    good, bad = tmp_path / "good.tflite", tmp_path / "bad.tflite"
    good.write_bytes(tangent(fails=False))
    bad.write_bytes(tangent(fails=True))
    first = deploy(small, good, "picky", *STEADY)["revision"]
    with Flow(small, good, name="picky") as flow:
        flow.passes()
        text = failing(small, 42, "deploy", str(bad), "--name", "picky", *STEADY, "--canary", "0.4", *JUDGED)
        entry = ended(wired, "picky", 2)
        assert (entry.state, entry.before) == ("rolled-back", first)
        assert re.search(r"canary: .*(frames failed|with an error), at most 0.01 of them may", entry.reason)
        assert entry.reason in text
        flow.passes(50)


@pytest.mark.slow
def test_a_shadow_with_other_results_is_rolled_back_and_nobody_gets_them(
    small: Site, wired: Wire, tmp_path: Path
) -> None:
    """Rule 3: a client takes answers only from revisions to which it sent the frame, never from a shadow."""
    file = model()
    other = with_other_weights(file, tmp_path / "other.tflite")
    first = deploy(small, file, "shaded", *STEADY)["revision"]
    with Flow(small, file, other, name="shaded") as flow:
        flow.passes()
        words = ("--shadow", "0.5", "--max-difference", "0.01", *JUDGED)
        text = failing(small, 42, "deploy", str(other), "--name", "shaded", *STEADY, *words)
        entry = ended(wired, "shaded", 2)
        assert (entry.state, entry.before) == ("rolled-back", first)
        assert re.search(r"shadow: results differ by .*, at most 0.01 may be", entry.reason), entry.reason
        assert entry.reason in text
        assert entry.evidence["difference"] > 0.01
        eventually(lambda: document(wired, "shaded").shadow is None, 30.0)
        flow.passes(50)
        assert flow.models_of == {first: {0}}


@pytest.mark.slow
def test_a_rollout_is_paused_resumed_promoted_and_gone_back_on_by_the_command_line(
    small: Site, wired: Wire, tmp_path: Path
) -> None:
    """Rule 1: what is gone back to has a number above all before."""
    file = model()
    other = with_other_weights(file, tmp_path / "other.tflite")

    def ask(*words: str) -> dict[str, Any]:
        body: dict[str, Any] = small.json("rollout", *words)
        return body

    def begin(to: Path, *words: str) -> str:
        deploy(small, to, "asked", *STEADY, "--no-wait", "--canary", "0.4", *JUDGED, *words)
        return in_state(wired, "asked", "canary").revision

    def judged() -> bool:
        entry = current(wired, "asked")
        return entry is not None and entry.evidence.get("answered", 0) >= 40

    first = deploy(small, file, "asked", *STEADY)["revision"]
    with Flow(small, file, other, name="asked") as flow:
        flow.passes()
        second = begin(other, "--seconds", "8")
        assert ask("pause", "asked")["state"] == "canary"
        # It has what it is judged by, and stays where it is.
        eventually(judged, 60.0)
        entry = current(wired, "asked")
        assert entry is not None
        assert (entry.revision, entry.state, entry.paused) == (second, "canary", True)
        assert ask("status", "asked")["rollouts"][0]["current"]["paused"]
        ask("resume", "asked")
        assert ended(wired, "asked", 2).state == "promoted"

        third = begin(file, "--promote", "manual")
        eventually(lambda: (e := current(wired, "asked")) is not None and "rollout promote" in e.reason, 60.0)
        assert ask("promote", "asked") == {
            "name": "asked",
            "action": "promote",
            "revision": third,
            "state": "promoted",
            "running": False,
            "unchanged": False,
        }
        assert ended(wired, "asked", 3).reason == "canary: promoted by request"

        begin(other, "--promote", "manual")
        ask("rollback", "asked")
        assert ended(wired, "asked", 4).reason == "asked for by an operator"

        back = ask("rollback", "asked", "--to", second)
        assert back["running"]
        entry = ended(wired, "asked", 5)
        assert (entry.state, entry.revision, entry.before) == ("promoted", back["revision"], third)
        assert number(back["revision"]) > number(third)
        eventually(lambda: back["revision"] in flow.revisions, 60.0)
        assert flow.models_of[back["revision"]] == {1}
        assert (flow.models_of[first], flow.models_of[second], flow.models_of[third]) == ({0}, {1}, {0})
        shown = ask("history", "asked")["rollouts"]
        assert [row["state"] for row in shown] == ["promoted", "rolled-back", "promoted", "promoted", "promoted"]
        assert shown[0]["revision"] == back["revision"]


def number(revision: str) -> int:
    return int(revision.partition("-")[0])
