"""Damaged models: 200 here, 10,000 by `python -m benchmarks.fuzz`; and that the fuzzer itself would see faults."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ai_edge_litert.schema_py_generated as schema
import flatbuffers  # type: ignore[import-untyped]
import pytest

from benchmarks import fuzz, fuzz_paths
from benchmarks.fuzz_paths import Ending, in_child
from benchmarks.mutations import KINDS, damaged, original
from converters.graph import read_graph
from converters.schema import open_model
from converters.slicing import groups_at, slice_model
from edge_node.runtime import open_interpreter
from slicemq.errors import ModelError
from tests.converters.corpus import tiny_models
from tests.converters.tiny import Tiny, chain, diamond

_FAST = "tiny-plain0,tiny-calls1,tiny-state2,tiny-half,face-short-range,wake-hey-jarvis"


def test_two_hundred_damaged_models_end_well() -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--inputs", "200", "--seed", "2", "--format", "json"]
    done = subprocess.run([*command, "--models", _FAST, "--fresh"], capture_output=True, text=True, check=False)
    body = json.loads(done.stdout)
    assert body["failures"] == []
    assert done.returncode == 0
    every = body["summary"][-1]
    assert every["inputs"] == 200
    assert every["cut ok"] > 10
    assert every["cut refused"] > 50
    assert every["cut ok"] + every["cut refused"] == 200


@pytest.mark.parametrize("name", sorted(tiny_models()))
def test_the_undamaged_models_are_sound(name: str) -> None:
    graph = read_graph(tiny_models()[name])
    assert graph.steps


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_damage_is_done_and_repeatable(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = original("chain", chain()), original("diamond", diamond())
    kinds = (kind, kind) if kind == "fields" else ("fields", kind)
    monkeypatch.setattr("benchmarks.mutations.KINDS", kinds)
    monkeypatch.setattr("benchmarks.mutations._FIELDS_SHARE", float(kind == "fields"))
    made = [damaged(first, second, random.Random(seed)) for seed in range(20)]
    assert made == [damaged(first, second, random.Random(seed)) for seed in range(20)]
    assert {word for _, damage in made for word in damage.split("+")} == {kind}
    assert len({data for data, _ in made}) > 3
    assert sum(data != first.data for data, _ in made) > 10


def test_structure_is_what_is_not_weights() -> None:
    content = chain(3, (1, 4096))
    found = original("wide", content)
    assert sum(end - begin for begin, end in found.structure) < len(content) - 4 * 4096 + 1
    assert all(begin < end <= len(content) for begin, end in found.structure)


def _allocate(nbytes: int) -> None:
    block = bytearray(nbytes)
    block[::4096] = b"x" * len(block[::4096])


def _raise(error: Exception) -> None:
    raise error


def _spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (lambda: None, "ok", ""),
        (lambda: _raise(ModelError("tensor 3")), "refused", "ModelError: tensor 3"),
        (lambda: _raise(KeyError("k")), "fail", "KeyError"),
        (lambda: _raise(SystemExit(3)), "fail", "SystemExit"),  # type: ignore[arg-type]
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "died", "SIGSEGV"),
        (lambda: os._exit(7), "died", "exit code 7"),
        (lambda: _allocate(1 << 33), "memory", ""),
        (lambda: _allocate(300_000_000), "memory", "MB resident"),
        (_spin, "slow", "computing"),
    ],
)
def test_every_ending_is_seen(
    body: Callable[[], None], kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_paths, "CPU_SECONDS", 1)
    monkeypatch.setattr(fuzz_paths, "MEMORY", 1_500_000_000 if "resident" not in words else 250_000_000)
    ending = in_child(body)
    assert (ending.kind, words in ending.detail) == (kind, True), ending


def _ending(kind: str) -> Ending:
    return Ending(kind, "why", 0.1, 1000)


@pytest.mark.parametrize(
    ("way", "kind", "failed"),
    [
        ("cut", "refused", False),
        ("cut", "died", True),
        ("cut", "slow", True),
        ("cut", "fail", True),
        ("cut", "memory", True),
        ("node", "died", False),
        ("node", "fail", True),
        ("plan", "memory", True),
        ("plan", "slow", False),
    ],
)
def test_what_counts_as_a_failure(way: str, kind: str, failed: bool) -> None:
    endings = {name: _ending(kind if name == way else "ok") for name in fuzz_paths.WAYS}
    assert bool(fuzz.judge(endings, "")) == failed
    assert "inspect: bad" in fuzz.judge(endings, "inspect: bad")


def test_what_the_command_line_makes_of_damage(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.tflite", tmp_path / "bad.tflite"
    good.write_bytes(chain())
    bad.write_bytes(chain()[:100])
    assert fuzz.inspect(good, "ai_edge_litert") == ""
    assert fuzz.inspect(bad, "ai_edge_litert") == ""
    assert "exit code 2" in fuzz.inspect(good, "no-runtime")


def test_a_mapped_model_can_be_closed_when_a_slice_cannot_be_written(tmp_path: Path) -> None:
    """Views of the file that an error keeps alive would turn a ModelError into a BufferError."""
    tree = schema.ModelT.InitFromPackedBuf(chain(), 0)
    # Options of a kind, and none there: such an operator can be read, but not copied.
    tree.subgraphs[0].operators[2].builtinOptions = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    path = tmp_path / "model.tflite"
    path.write_bytes(builder.Output())
    with open_model(path) as data:
        graph = read_graph(data)
    with pytest.raises(ModelError, match="operator 2"), open_model(path) as data:
        slice_model(data, graph, groups_at(graph, []))


def test_names_that_are_no_text_are_a_model_error() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="nameless")
    content = tiny.build([tiny.op("TANH", [x])]).replace(b"nameless", b"\xff\xfe\xfd\xfc\xff\xff\xff\xff")
    assert read_graph(content).tensors[x].name
    with pytest.raises(ModelError, match="utf-8"):
        open_interpreter(content, runtime="ai_edge_litert")
