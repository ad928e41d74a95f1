"""Verification finds what differs and where; folders of slices are whole and never overwrite others' files."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.flatbuffer import write_slice
from converters.folder import read_folder, write_folder
from converters.graph import Graph, read_graph
from converters.manifest import FILE_NAME, parse_manifest
from converters.runtime import random_inputs
from converters.slicing import Slice, edges, groups_at, slice_model
from converters.verify import Link, link, verify_chain
from slicemq.errors import ArtifactError, InputError, ModelError, StoreError
from tests.converters.machine import load
from tests.converters.tiny import Tiny, chain, diamond


def _sliced(data: bytes, positions: list[int]) -> tuple[Graph, list[Slice]]:
    graph = read_graph(data)
    return graph, slice_model(data, graph, groups_at(graph, positions))


def _other_constant(data: bytes, old: float, new: float) -> bytes:
    before, after = (np.full(4, v, np.float32).tobytes() for v in (old, new))
    assert data.count(before) == 1
    return data.replace(before, after)


def test_equal_on_random_frames() -> None:
    data = diamond()
    graph, slices = _sliced(data, [1, 3])
    frames = [(f"seed {s}", random_inputs(graph, s)) for s in range(3)]
    report = verify_chain(data, graph, [link(s) for s in slices], load, frames)
    assert report.equal
    assert (report.frames, report.tensors) == (3, 3)


def test_names_the_first_differing_tensor_and_slice() -> None:
    data = chain(6)
    graph, slices = _sliced(data, [2, 4])
    chain_links = [link(s) for s in slices]
    spoilt = _other_constant(slices[1].data, 0.5, 0.75)
    chain_links[1] = Link("s1", slices[1].inputs, slices[1].outputs, spoilt)
    report = verify_chain(data, graph, chain_links, load, [("x", random_inputs(graph, 0))])
    assert not report.equal
    (difference,) = report.differences
    assert (difference.slice, difference.tensor, difference.name) == ("s1", 5, "t5")
    assert "4 of 4 elements differ, by up to 0.5" in str(difference)


def test_nan_equals_the_same_nan_and_zeros_have_signs() -> None:
    data = diamond()
    graph, slices = _sliced(data, [2])
    nan = {0: np.array([[np.nan, np.inf, -np.inf, 0]], np.float32)}
    assert verify_chain(data, graph, [link(s) for s in slices], load, [("nan", nan)]).equal
    tiny = Tiny()
    x = tiny.input((1, 4))
    plus = tiny.constant(np.full(4, 2, np.float32))
    data = tiny.build([tiny.op("MUL", [x, plus], options=schema.MulOptionsT())])
    graph, slices = _sliced(data, [])
    minus = Link("s0", (0,), (2,), _other_constant(slices[0].data, 2, -2))
    zero = {0: np.zeros((1, 4), np.float32)}
    report = verify_chain(data, graph, [minus], load, [("zero", zero)])
    assert "4 of 4 elements differ, by up to 0" in str(report.differences[0])


def test_a_chain_that_does_not_fit() -> None:
    data = chain(4)
    graph, slices = _sliced(data, [2])
    links = [link(s) for s in slices]
    frame = [("x", random_inputs(graph, 0))]
    with pytest.raises(ModelError, match="slice s1 reads tensor 3, which no slice before it makes"):
        verify_chain(data, graph, links[1:], load, frame)
    with pytest.raises(ModelError, match="no slice makes the model's output 5"):
        verify_chain(data, graph, links[:1], load, frame)
    with pytest.raises(ModelError, match="slice s0: 1 inputs, expected 2"):
        verify_chain(data, graph, [Link("s0", (0, 1), (3,), slices[0].data)], load, frame)
    with pytest.raises(InputError, match=r"half: input 0 \(x\) is missing"):
        verify_chain(data, graph, links, load, [("half", {})])


def test_a_folder_round_trip(tmp_path: Path) -> None:
    data = diamond()
    graph, slices = _sliced(data, [1, 3])
    groups = groups_at(graph, [1, 3])
    made = write_folder(tmp_path / "out" / "slices", graph, slices, edges(graph, groups))
    folder = tmp_path / "out" / "slices"
    assert sorted(p.name for p in folder.iterdir()) == [
        "slice-00.tflite",
        "slice-01.tflite",
        "slice-02.tflite",
        FILE_NAME,
    ]
    assert read_folder(folder) == made
    assert (folder / "slice-01.tflite").read_bytes() == slices[1].data
    assert made.bundles[0].source is None
    assert [(b.source, b.targets, b.nbytes) for b in made.bundles] == [
        (None, ("s0", "s2"), 16),
        ("s0", ("s1",), 16),
        ("s1", ("s2",), 32),
    ]
    # Again, with fewer slices: the old ones do not stay behind.
    graph, slices = _sliced(data, [])
    write_folder(folder, graph, slices, edges(graph, groups_at(graph, [])))
    assert len(list(folder.iterdir())) == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["slices"]


def test_foreign_files_are_never_overwritten(tmp_path: Path) -> None:
    graph, slices = _sliced(chain(), [])
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match=r"letter\.txt, which is no slice"):
        write_folder(tmp_path, graph, slices, ())
    assert (tmp_path / "letter.txt").read_text() == "dear"
    other = tmp_path / "other"
    other.mkdir()
    (other / FILE_NAME).write_text("{}")
    with pytest.raises(StoreError, match="is not ours"):
        write_folder(other, graph, slices, ())
    with pytest.raises(StoreError, match="cannot be written"):
        write_folder(tmp_path / "letter.txt" / "below", graph, slices, ())


def test_nothing_is_left_behind_when_cutting_fails(tmp_path: Path) -> None:
    graph, slices = _sliced(chain(), [2])

    def broken() -> object:
        yield slices[0]
        raise ModelError("damaged")

    with pytest.raises(ModelError, match="damaged"):
        write_folder(tmp_path / "new", graph, broken(), ())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_earlier_folder_stays_until_the_new_one_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, slices = _sliced(chain(), [2])
    bundles = edges(graph, groups_at(graph, [2]))
    folder = tmp_path / "s"
    write_folder(folder, graph, slices, bundles)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    whole = slice_model(chain(), graph, groups_at(graph, []))
    rename = Path.rename

    def refusing(path: Path, target: Path) -> Path:
        if path.suffix == ".part":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refusing)
        with pytest.raises(StoreError, match="s: cannot be written: Input/output error"):
            write_folder(folder, graph, whole, edges(graph, groups_at(graph, [])))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    link = tmp_path / "link"
    link.symlink_to("s")
    write_folder(link, graph, whole, edges(graph, groups_at(graph, [])))
    assert link.is_symlink()
    assert [entry.file for entry in read_folder(folder).slices] == ["slice-00.tflite"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "s"]


def test_a_changed_slice_is_noticed(tmp_path: Path) -> None:
    graph, slices = _sliced(chain(), [2])
    write_folder(tmp_path / "s", graph, slices, edges(graph, groups_at(graph, [2])))
    path = tmp_path / "s" / "slice-01.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"slice-01\.tflite: its SHA-256"):
        read_folder(tmp_path / "s")
    path.unlink()
    with pytest.raises(ModelError, match=r"slice-01\.tflite: cannot be read"):
        read_folder(tmp_path / "s")
    with pytest.raises(ModelError, match=r"slices\.json: cannot be read"):
        read_folder(tmp_path / "nowhere")


def test_manifest_errors_name_the_field(tmp_path: Path) -> None:
    graph, slices = _sliced(chain(), [2])
    write_folder(tmp_path / "s", graph, slices, edges(graph, groups_at(graph, [2])))
    good = json.loads((tmp_path / "s" / FILE_NAME).read_text())
    assert parse_manifest(json.dumps(good)) == read_folder(tmp_path / "s")

    def spoil(words: str, *path: object, value: object) -> None:
        body = json.loads(json.dumps(good))
        where = body
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = value
        with pytest.raises(ModelError, match=words):
            parse_manifest(json.dumps(body))

    spoil("version 2, this software reads 1", "version", value=2)
    spoil("field version: expected a whole number", "version", value="1")
    spoil("field version: expected a whole number", "version", value=True)
    spoil("field model: expected an object", "model", value=[])
    spoil("field sha256: expected 64", "model", "sha256", value="ABC")
    spoil(r"slices\[1\]: field file: expected slice-<number>", "slices", 1, "file", value="../../etc/passwd")
    spoil(r"slices\[0\]: field operators: expected whole numbers", "slices", 0, "operators", value=[-1])
    spoil(r"inputs\[0\]: field shape", "inputs", 0, "shape", value=["4"])
    spoil("slices: expected at least one", "slices", value=[])
    spoil("each with an id of its own", "slices", 1, "id", value="s0")
    spoil("bundle b0: no slice has the id 's9'", "bundles", 0, "to", value=["s9"])
    spoil("bundle b1: no slice has the id 's9'", "bundles", 1, "from", value="s9")
    spoil("field to: expected a list of slice ids", "bundles", 0, "to", value=[1])
    for text in ("", "[]", "null", "{", "[" * 100_000):
        with pytest.raises(ModelError, match=r"slices\.json"):
            parse_manifest(text)


def test_a_manifest_that_contradicts_itself(tmp_path: Path) -> None:
    groups = [2]
    graph, slices = _sliced(diamond(), groups)
    write_folder(tmp_path / "s", graph, slices, edges(graph, groups_at(graph, groups)))
    good = json.loads((tmp_path / "s" / FILE_NAME).read_text())
    tensor = {"index": 3, "name": "t3", "dtype": "float32", "shape": [1, 4]}
    fewer = {**good["bundles"][1], "tensors": [1], "bytes": 16}
    for words, path, value in (
        ("slices: field file: 'slice-00.tflite' is listed twice", ("slices", 1, "file"), "slice-00.tflite"),
        ("bundles: field id: 'b0' is listed twice", ("bundles", 1, "id"), "b0"),
        ("slice s0: field operators: 1 is listed twice", ("slices", 0, "operators"), [1, 1]),
        ("slice s0: field inputs: no bundle brings tensor 0", ("bundles",), []),
        ("slice s1: field inputs: no bundle brings tensor 2", ("bundles", 1), fewer),
        ("bundle b1: field tensors: s0 does not give tensor 7", ("bundles", 1, "tensors"), [1, 2, 7]),
        ("bundle b1: field tensors: expected at least one", ("bundles", 1, "tensors"), []),
        ("bundle b0: field tensors: slice s1 does not take tensor 0", ("slices", 1, "inputs", 0), tensor),
        ("bundle b0: field to: expected at least one", ("bundles", 0, "to"), []),
        ("bundle b0: field to: 's1' is listed twice", ("bundles", 0, "to"), ["s0", "s1", "s1"]),
        ("bundle b1: field to: slice s0 does not run after s0", ("bundles", 1, "to"), ["s0", "s1"]),
        ("bundle b1: field bytes: 31, but its tensors have 32", ("bundles", 1, "bytes"), 31),
        ("field outputs: expected at least one", ("outputs",), []),
        (r"field outputs: no slice gives tensor 3 \(t3\)", ("outputs",), [tensor]),
        (r"slice s1: outputs: tensor 5: field shape: \[1, 4\], but \[4\] in outputs", ("outputs", 0, "shape"), [4]),
        ("inputs: tensor 0: field dtype: 'string' cannot travel", ("inputs", 0, "dtype"), "string"),
    ):
        body = json.loads(json.dumps(good))
        where = body
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = value
        with pytest.raises(ModelError, match=words):
            parse_manifest(json.dumps(body))
    huge = json.dumps(good).replace("[1, 4]", json.dumps([10**9] * 1_000_000))
    with pytest.raises(ModelError, match="bundle b0: field bytes: 16, but its tensors have 4"):
        parse_manifest(huge)


def test_tracing_does_not_need_the_slices() -> None:
    data = chain(3)
    graph = read_graph(data)
    traced = load(write_slice(data, graph, [0, 1, 2], [0], [2, 3, 4]))
    traced.set_input(0, np.zeros((1, 4), np.float32))
    traced.invoke()
    assert [float(traced.output(i)[0, 0]) for i in range(3)] == [0.5, 1.0, 1.5]


def test_the_documented_example_is_what_slicing_writes(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "slices-json.md"
    example = page.read_text(encoding="utf-8").split("```json\n")[1].split("```")[0]
    graph, slices = _sliced(diamond(), [2])
    write_folder(tmp_path / "s", graph, slices, edges(graph, groups_at(graph, [2])))
    made = (tmp_path / "s" / FILE_NAME).read_text(encoding="utf-8")
    # Hashes and sizes of the slices may change with the flatbuffers package.
    volatile = re.compile(r'"(sha256|size)": [^,\n]+')
    assert volatile.sub("", made) == volatile.sub("", example)
    assert parse_manifest(example).slices[1].id == "s1"
