"""Options of rollouts, golden files, and what is shown of rollouts, nodes and pipelines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.models import real_models
from converters import golden
from converters.graph import Graph
from coordinator.cli import rollout_wishes
from coordinator.cli.common import Output
from coordinator.cli.deployment import read_model
from coordinator.cli.golden_file import golden_bytes, golden_frame
from coordinator.cli.rollouts import document_row, entries_table, evidence_table
from slicemq.errors import InputError, UsageError
from slicemq.messages import Artifact, Stamp
from slicemq.operations import RolloutDocument, RolloutEntry
from slicemq.specs import tensor_keys

NOTHING: dict[str, Any] = dict.fromkeys(
    ("canary", "shadow", "frames", "seconds", "deadline", "max_failed", "max_slowdown", "max_difference")
) | {"promote": "auto"}


def test_only_what_was_given_travels() -> None:
    assert rollout_wishes.wishes(NOTHING) == {}
    given = NOTHING | {"canary": 0.1, "frames": 50, "promote": "manual"}
    assert rollout_wishes.wishes(given) == {"canary": 0.1, "frames": 50, "promote": "manual"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"canary": 0.0}, "--canary"),
        ({"canary": 0.5}, "--canary"),
        ({"canary": float("nan")}, "--canary"),
        ({"shadow": 1.01}, "--shadow"),
        ({"canary": 0.1, "seconds": -1.0}, "--seconds"),
        ({"canary": 0.1, "max_failed": 2.0}, "--max-failed"),
        ({"canary": 0.1, "max_slowdown": 0.5}, "--max-slowdown"),
        ({"canary": 0.1, "max_difference": 0.1}, "--max-difference"),
        ({"shadow": 0.1, "max_difference": -0.1}, "--max-difference"),
        ({"frames": 10}, "--frames"),
        ({"max_slowdown": 3.0}, "--max-slowdown"),
        ({"promote": "manual"}, "--promote"),
        ({"promote": "never"}, "--promote"),
        ({"canary": 0.1, "seconds": 30.0, "deadline": 30.0}, "--deadline"),
        ({"canary": 0.1, "shadow": 0.5, "deadline": 20.0}, "--deadline"),
        ({"deadline": 0.0}, "--deadline"),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=f"^{named}: expected"):
        rollout_wishes.wishes(NOTHING | given)


def face() -> Graph:
    return read_model(real_models()["face-short-range"].path)


def arrays(graph: Graph, *, outputs: bool = True) -> dict[str, Any]:
    from coordinator.revisions import specs

    found = {str(s.index): np.ones(s.shape, s.dtype) for s in specs(graph, graph.inputs)}
    wanted = specs(graph, graph.outputs)
    keys = tensor_keys(wanted)
    return found | {f"expect.{keys[s.index]}": np.ones(s.shape, s.dtype) for s in wanted if outputs}


def test_a_golden_file_is_read_by_index_and_by_name(tmp_path: Path) -> None:
    graph, file = face(), tmp_path / "g.npz"
    np.savez(file, **arrays(graph), tolerance=0.01)
    frame = golden_frame(graph, file)
    assert (len(frame.inputs), len(frame.outputs), frame.tolerance) == (1, 2, 0.01)
    (spec,) = graph.inputs
    named = arrays(graph, outputs=False)
    np.savez(file, **{graph.tensors[spec].name: named[str(spec)]})
    frame = golden_frame(graph, file)
    assert (frame.outputs, frame.tolerance) == ((), 1e-3)


def test_golden_files_travel_as_one(tmp_path: Path) -> None:
    graph, file = face(), tmp_path / "g.npz"
    np.savez(file, **arrays(graph), tolerance=0.0)
    frames = golden.unpack(golden_bytes(graph, [file, file]))
    assert len(frames) == 2
    assert frames[1].tolerance == 0.0
    assert (frames[1].outputs[0] == 1).all()
    with pytest.raises(InputError, match="--golden: 9 files, expected at most 8"):
        golden_bytes(graph, [file] * 9)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tolerance": np.array([1.0, 2.0])}, "tolerance: expected a single number"),
        ({"tolerance": np.array(-1.0)}, "tolerance: expected a number from 0"),
        ({"other": np.zeros(1)}, "no input 'other'"),
        ({"expect.other": np.zeros(1)}, "no output 'other'"),
        ({"expect.regressors": np.zeros(1)}, "expected float32"),
        ({"expect.regressors": None}, "missing output"),
        ({"0": np.zeros(1)}, "expected float32"),
    ],
)
def test_a_wrong_golden_file_is_named_with_its_array(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    graph, file = face(), tmp_path / "g.npz"
    found = {key: array for key, array in (arrays(graph) | change).items() if array is not None}
    np.savez(file, **found)
    with pytest.raises(InputError) as caught:
        golden_frame(graph, file)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"--golden {file}: ")


def test_damaged_golden_bytes_are_refused() -> None:
    frame = golden.Golden((np.ones((1, 3), np.float32),), (np.zeros(2, np.int8),), 0.5)
    data = golden.pack([frame])
    (again,) = golden.unpack(data)
    assert (again.inputs[0] == 1).all()
    assert again.outputs[0].dtype == np.int8
    for end in range(len(data)):
        with pytest.raises(InputError, match=r"^golden: "):
            golden.unpack(data[:end])
    for wrong in ((), tuple([frame] * 9)):
        with pytest.raises(InputError, match="expected a list of 1 to 8"):
            golden.pack(wrong)
    with pytest.raises(InputError, match="not finite"):
        golden.pack([golden.Golden((np.array([np.nan]),), (), 0.0)])
    with pytest.raises(InputError, match="tolerance"):
        golden.pack([golden.Golden((np.ones(1),), (), float("inf"))])


ENTRY = RolloutEntry("4-77aa01bc", Artifact("d" * 64, 5), "canary", 100.0, 0.0, "3-9f2c41d7", "", 0.1, True)


def test_a_rollout_is_a_row_with_its_age() -> None:
    document = RolloutDocument("faces", Stamp(1, "i", 1), ENTRY, (ENTRY,))
    row = document_row(document, 112.5)
    assert row["current"]["seconds"] == 12.5
    assert row["last"] is not None
    text = entries_table([row["current"]], Output())
    assert "canary, paused" in text
    assert "10%" in text
    assert time.strftime("%Y", time.localtime(100.0)) in text


def test_evidence_stands_beside_what_served_before() -> None:
    text = evidence_table({"p95_ms": 41.5, "answered": 120.0, "before_p95_ms": 20.0, "clients": 1.0}, Output())
    rows = [line.split() for line in text.splitlines()]
    assert rows == [["figure", "tried", "before"], ["p95_ms", "41.5", "20"], ["answered", "120"], ["clients", "1"]]
    assert evidence_table({}, Output()) == ""


@pytest.mark.parametrize(
    "words",
    [
        ["deploy", "x.tflite", "--name", "faces", "--canary", "2"],
        ["rollout", "rollback", "faces", "--to", "seven"],
        ["node", "pin", "faces", "s0"],
        ["node", "unpin", "faces", "s0=n1"],
        ["node", "drain", "Not an id"],
        ["rollout", "promote", "Not an id"],
    ],
)
def test_wrong_arguments_end_with_2_before_anything_is_asked(words: list[str]) -> None:
    from tests.e2e.scene import command, refused

    refused(command(*words), 2)


def test_one_of_many_results_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"event": "skipped", "reason": "a\nb"}
    Output("json").event(body, "skipped a")
    Output().event(body, "skipped a")
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[0]) == body
    assert lines[1:] == ["skipped a"]
