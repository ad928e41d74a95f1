"""`slices.json`: what a folder of slices is (docs/reference/slices-json.md). Pure: text in, dataclasses out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from converters.agreement import contradictions
from converters.graph import Graph
from converters.slicing import Edge, Slice
from slicemq.errors import ModelError
from slicemq.topics import is_sha256

VERSION = 1
FILE_NAME = "slices.json"
_FILE = re.compile(r"slice-[0-9]{2,6}\.tflite\Z")
_CLIENT = "client"


@dataclass(frozen=True)
class TensorEntry:
    """A tensor by its index in the whole model."""

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SliceEntry:
    """One slice file; `operators` by their index in the whole model, constant ones included."""

    id: str
    file: str
    sha256: str
    size: int
    operators: tuple[int, ...]
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]


@dataclass(frozen=True)
class BundleEntry:
    """A bundle; `source` is a slice's id, None for the client; `nbytes` is the tensors' size uncompressed."""

    id: str
    source: str | None
    targets: tuple[str, ...]
    tensors: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Manifest:
    """The whole file; slices are in the order in which they run.

    The model's inputs and outputs go by their names in its signature, as in a pipeline; slices keep their tensors'.
    """

    sha256: str
    size: int
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    slices: tuple[SliceEntry, ...]
    bundles: tuple[BundleEntry, ...]

    def to_json(self) -> str:
        """The file's text."""
        body = {
            "version": VERSION,
            "model": {"sha256": self.sha256, "size": self.size},
            "inputs": [asdict(t) for t in self.inputs],
            "outputs": [asdict(t) for t in self.outputs],
            "slices": [asdict(s) for s in self.slices],
            "bundles": [
                {
                    "id": b.id,
                    "from": b.source or _CLIENT,
                    "to": list(b.targets),
                    "tensors": list(b.tensors),
                    "bytes": b.nbytes,
                }
                for b in self.bundles
            ],
        }
        text = json.dumps(body, indent=2)
        # Lists of numbers on one line: a slice may have hundreds of operators.
        return re.sub(r"\[\n[-0-9,\s]*\]", lambda found: json.dumps(json.loads(found[0])), text) + "\n"


def file_name(number: int) -> str:
    """`slice-00.tflite`, `slice-01.tflite` ..."""
    return f"slice-{number:02d}.tflite"


def tensor_entry(graph: Graph, index: int) -> TensorEntry:
    """The entry of a tensor."""
    tensor = graph.tensors[index]
    return TensorEntry(index, tensor.name, tensor.dtype, tensor.frame_shape)


def slice_entry(graph: Graph, number: int, piece: Slice) -> SliceEntry:
    """The entry of slice `number`."""
    return SliceEntry(
        piece.id,
        file_name(number),
        piece.sha256,
        len(piece.data),
        piece.operators,
        tuple(tensor_entry(graph, t) for t in piece.inputs),
        tuple(tensor_entry(graph, t) for t in piece.outputs),
    )


def make_manifest(graph: Graph, slices: Sequence[SliceEntry], bundles: Sequence[Edge]) -> Manifest:
    """The manifest of a model's slices."""
    ids = [entry.id for entry in slices]
    return Manifest(
        graph.sha256,
        graph.size,
        tuple(replace(tensor_entry(graph, t), name=graph.public_name(t)) for t in graph.inputs),
        tuple(replace(tensor_entry(graph, t), name=graph.public_name(t)) for t in graph.outputs),
        tuple(slices),
        tuple(
            BundleEntry(
                b.id,
                None if b.source is None else ids[b.source],
                tuple(ids[t] for t in b.targets),
                b.tensors,
                sum(graph.tensors[t].nbytes for t in b.tensors),
            )
            for b in bundles
        ),
    )


def parse_manifest(text: str | bytes) -> Manifest:
    """Read a `slices.json`; raises ModelError that names the field and what was expected, or a contradiction."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{FILE_NAME} is not JSON: {error}") from error
    top = _Reader(body, FILE_NAME)
    version = top.integer("version")
    if version != VERSION:
        raise ModelError(f"{FILE_NAME}: version {version}, this software reads {VERSION}")
    model = top.table("model")
    manifest = Manifest(
        model.sha256("sha256"),
        model.integer("size"),
        tuple(_tensor(t) for t in top.tables("inputs")),
        tuple(_tensor(t) for t in top.tables("outputs")),
        tuple(_slice(s) for s in top.tables("slices")),
        tuple(_bundle(b) for b in top.tables("bundles")),
    )
    ids = [entry.id for entry in manifest.slices]
    if not ids or len(set(ids)) != len(ids):
        raise ModelError(f"{FILE_NAME}: slices: expected at least one, each with an id of its own, got {ids}")
    for bundle in manifest.bundles:
        unknown = {*bundle.targets, bundle.source or ids[0]} - set(ids)
        if unknown:
            raise ModelError(f"{FILE_NAME}: bundle {bundle.id}: no slice has the id {sorted(unknown)[0]!r}")
    for text in contradictions(manifest):
        raise ModelError(f"{FILE_NAME}: {text}")
    return manifest


class _Reader:
    """Fields of one JSON object, by type; errors name the field."""

    def __init__(self, body: Any, where: str) -> None:
        if not isinstance(body, dict):
            raise ModelError(f"{where}: expected an object, got {type(body).__name__}")
        self.body = body
        self.where = where

    def _get(self, field: str, kind: type, words: str) -> Any:
        value = self.body.get(field)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ModelError(f"{self.where}: field {field}: expected {words}, got {value!r:.60}")
        return value

    def integer(self, field: str) -> int:
        value: int = self._get(field, int, "a whole number")
        if value < 0:
            raise ModelError(f"{self.where}: field {field}: expected 0 or more, got {value}")
        return value

    def text(self, field: str) -> str:
        value: str = self._get(field, str, "text")
        return value

    def sha256(self, field: str) -> str:
        value = self.text(field)
        if not is_sha256(value):
            raise ModelError(f"{self.where}: field {field}: expected 64 lower-case hex digits, got {value!r:.80}")
        return value

    def integers(self, field: str, least: int = 0) -> tuple[int, ...]:
        values = self._get(field, list, "a list of whole numbers")
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values):
            raise ModelError(f"{self.where}: field {field}: expected whole numbers of at least {least}")
        return tuple(values)

    def table(self, field: str) -> _Reader:
        return _Reader(self.body.get(field), f"{self.where}: field {field}")

    def tables(self, field: str) -> list[_Reader]:
        values = self._get(field, list, "a list of objects")
        return [_Reader(value, f"{self.where}: {field}[{i}]") for i, value in enumerate(values)]


def _tensor(body: _Reader) -> TensorEntry:
    return TensorEntry(body.integer("index"), body.text("name"), body.text("dtype"), body.integers("shape", -1))


def _slice(body: _Reader) -> SliceEntry:
    file = body.text("file")
    if not _FILE.match(file):
        raise ModelError(f"{body.where}: field file: expected slice-<number>.tflite, got {file!r}")
    return SliceEntry(
        body.text("id"),
        file,
        body.sha256("sha256"),
        body.integer("size"),
        body.integers("operators"),
        tuple(_tensor(t) for t in body.tables("inputs")),
        tuple(_tensor(t) for t in body.tables("outputs")),
    )


def _bundle(body: _Reader) -> BundleEntry:
    source = body.text("from")
    targets = body._get("to", list, "a list of slice ids")
    if not all(isinstance(target, str) for target in targets):
        raise ModelError(f"{body.where}: field to: expected a list of slice ids")
    return BundleEntry(
        body.text("id"),
        None if source == _CLIENT else source,
        tuple(targets),
        body.integers("tensors"),
        body.integer("bytes"),
    )
