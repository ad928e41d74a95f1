"""Write one slice's .tflite from a model's flatbuffer: only what its operators need (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import schema, witness
from converters.graph import Graph
from converters.halves import witnessed
from converters.lowering import lowest_version
from converters.mapped import give_back
from converters.schema import Bytes, damage_as_model_error
from converters.selection import WITNESS, Selection, selections
from converters.subgraphs import renumber
from slicemq.errors import ModelError

# Kernels read weights in place, with vector instructions: the schema asks for buffers at multiples of 16.
_ALIGN = 16
# `reduced_precision_support` lets the runtime compute in float16: without it a slice could differ from the whole.
_KEPT_METADATA = frozenset({b"min_runtime_version", b"reduced_precision_support"})
_MAX_METADATA_BYTES = 4096


def write_slice(
    data: Bytes, graph: Graph, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """A .tflite of `operators` (indices in the model, in order) with whole-model tensors as inputs and outputs.

    Subgraphs that the operators call come with them, renumbered; see `converters.selection`. A slice of a dynamic
    model gets two tiny operators of its own, which make it dynamic, and so do its subgraphs where it matters
    (`converters.dynamic`); one that lacks a reader of a float16 bias or weights may get one in its place
    (`converters.halves`).

    Tensors keep their names, types, shapes, signatures, quantisation and sparsity, and the order of their indices;
    the inputs get the shapes that `graph` has (`converters.shapes` finds them where the file's are wrong); buffers
    that several tensors share are written once. Operators get the lowest versions that mean the same
    (`converters.lowering`). The bytes depend on the arguments only.
    Raises ModelError when the model's bytes do not hold together.
    """
    with damage_as_model_error("model"):
        writer = _Writer(data, graph, selections(graph, operators, inputs, outputs))
        try:
            return writer.write()
        finally:
            writer.let_go()


class _Writer:
    def __init__(self, data: Bytes, graph: Graph, tables: Sequence[Selection]) -> None:
        self.classes = schema.classes()
        self.data = data
        self.model = model = schema.root(data)
        self.graph = graph
        self.tables = tables
        # Which of the subgraphs get the operators that make them dynamic.
        self.witnesses = {number for number, table in enumerate(tables) if table.source == WITNESS}
        self.witnesses.update([0] if graph.dynamic else [])
        # Tensors of the slice's own subgraph that get a reader besides those that the slice has.
        self.halves = witnessed(graph, tables[0].operators)
        self.subgraphs = [model.Subgraphs(max(table.source, 0)) for table in tables]
        self.new_number = {table.source: new for new, table in enumerate(tables)}
        self.new_index = [{-1: -1, **{old: new for new, old in enumerate(table.tensors)}} for table in tables]
        self.fed = set(tables[0].inputs)
        # Buffer of the model -> that of the slice, and what is in the latter ones.
        self.buffers, self.contents = self._kept_buffers()
        folded = [t for t in tables[0].tensors if t in graph.values]
        self.values = {t: new for new, t in enumerate(folded, start=1 + len(self.contents))}
        self.metadata = self._metadata()
        weights = sum(len(content) for content in self.contents)
        if weights + graph.table_bytes > schema.MAX_MODEL_BYTES:
            raise ModelError(
                f"a slice with {weights} bytes of weights: a .tflite holds at most {schema.MAX_MODEL_BYTES} bytes; "
                "cut the model into more slices"
            )
        # Room for everything at once: the builder doubles when it is short, which a slice of 100 MB should not do.
        self.limit = 2 * (weights + graph.table_bytes) + (1 << 16)
        room = weights + _ALIGN * len(self.contents) + 2 * graph.table_bytes + (1 << 12)
        self.builder = schema.builder(min(room, schema.MAX_MODEL_BYTES))

    def _kept_buffers(self) -> tuple[dict[int, int], list[Any]]:
        kept: dict[int, int] = {}
        contents: list[Any] = []
        behind: dict[tuple[int, int], int] = {}
        for index in dict.fromkeys(table.rows[t].buffer for table in self.tables for t in table.tensors):
            offset, content = schema.buffer_content(self.data, self.model.Buffers(index), f"buffer {index}")
            if content is None:
                continue
            kept[index] = behind.get((offset, len(content)), 1 + len(contents))
            if kept[index] > len(contents):
                contents.append(content)
            if offset:
                behind[offset, len(content)] = kept[index]
        return kept, contents

    def let_go(self) -> None:
        """Drop the views of the model's bytes: after an error they would keep a mapped file from closing."""
        self.contents, self.metadata = [], []

    def write(self) -> bytes:
        c, builder = self.classes, self.builder
        contents = [self._bytes(content) for content in self.contents]
        contents += [self._bytes(np.frombuffer(self.graph.values[t], np.uint8)) for t in self.values]
        extra = [self._bytes(content) for _, content in self.metadata]
        one = [self._bytes(np.array([1, 0, 0, 0], np.uint8))] if self.witnesses else []
        buffers = self._tables([self._buffer(None), *(self._buffer(at) for at in (*contents, *extra, *one))])
        codes, code_tables = self._operator_codes()
        subgraphs = self._tables([self._subgraph(number, codes) for number in range(len(self.tables))])
        code_vector = self._tables(code_tables)
        metadata = self._tables(
            [self._metadata_entry(name, 1 + len(contents) + i) for i, (name, _) in enumerate(self.metadata)]
        )
        description = builder.CreateString(self.model.Description() or b"")
        c.ModelStart(builder)
        c.ModelAddVersion(builder, self.model.Version())
        c.ModelAddOperatorCodes(builder, code_vector)
        c.ModelAddSubgraphs(builder, subgraphs)
        c.ModelAddDescription(builder, description)
        c.ModelAddBuffers(builder, buffers)
        if self.metadata:
            c.ModelAddMetadata(builder, metadata)
        builder.Finish(c.ModelEnd(builder), schema.IDENTIFIER)
        self._check_size("the slice")
        # The content is copied once more: without this a large model would be in memory beside both.
        give_back(self.data)
        return bytes(memoryview(builder.Bytes)[builder.Head() :])

    def _metadata(self) -> list[tuple[bytes, Any]]:
        """(name, content) of the metadata that a slice keeps."""
        found = []
        for i in range(min(self.model.MetadataLength(), 1024)):
            entry = self.model.Metadata(i)
            name, buffer = entry.Name(), entry.Buffer()
            if name in _KEPT_METADATA and 0 <= buffer < self.model.BuffersLength():
                _, content = schema.buffer_content(self.data, self.model.Buffers(buffer), f"buffer {buffer}")
                if content is not None and 0 < len(content) <= _MAX_METADATA_BYTES:
                    found.append((name, content))
        return found

    def _check_size(self, what: str) -> None:
        if self.builder.Offset() > self.limit:
            raise ModelError(f"{what}: damaged TFLite flatbuffer (it grows when it is copied)")

    def _bytes(self, content: Any) -> int:
        """Write a vector of bytes, its first byte at a multiple of 16, without a copy in between."""
        size = len(content)
        self.builder.StartVector(1, size, _ALIGN)
        self.builder.head = self.builder.Head() - size
        if size:
            self.builder.Bytes[self.builder.head : self.builder.head + size] = content.data
        return int(self.builder.EndVector())

    def _buffer(self, content: int | None) -> int:
        self.classes.BufferStart(self.builder)
        if content is not None:
            self.classes.BufferAddData(self.builder, content)
        return int(self.classes.BufferEnd(self.builder))

    def _tables(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def _metadata_entry(self, name: bytes, buffer: int) -> int:
        text = self.builder.CreateString(name)
        self.classes.MetadataStart(self.builder)
        self.classes.MetadataAddName(self.builder, text)
        self.classes.MetadataAddBuffer(self.builder, buffer)
        return int(self.classes.MetadataEnd(self.builder))

    def _operator_codes(self) -> tuple[dict[int, int], list[int]]:
        """The new index of each operator code that the slice uses, and their tables."""
        versions: dict[int, int] = {}
        for subgraph, selected in zip(self.subgraphs, self.tables, strict=True):
            for operator in map(subgraph.Operators, selected.operators):
                index = operator.OpcodeIndex()
                lowest = lowest_version(self.model, subgraph, operator)
                versions[index] = max(lowest, versions.get(index, lowest))
        used = sorted(versions)
        tables = []
        for index in used:
            table = self.classes.OperatorCodeT.InitFromObj(self.model.OperatorCodes(index))
            table.version = versions[index]
            tables.append(int(table.Pack(self.builder)))
            self._check_size(f"operator code {index}")
        added = witness.codes(self.classes, bool(self.witnesses), bool(self.halves))
        tables += [int(table.Pack(self.builder)) for table in added]
        return {old: new for new, old in enumerate(used)}, tables

    def _subgraph(self, number: int, codes: dict[int, int]) -> int:
        c, builder, selected = self.classes, self.builder, self.tables[number]
        tensor_tables = [self._tensor(number, t) for t in selected.tensors]
        operator_tables = [self._operator(number, i, codes) for i in selected.operators]
        added_tensors, added_operators = self._added(number, len(codes))
        tensor_tables += [int(table.Pack(builder)) for table in added_tensors]
        operator_tables += [int(table.Pack(builder)) for table in added_operators]
        tensors, operators = self._tables(tensor_tables), self._tables(operator_tables)
        inputs = builder.CreateNumpyVector(self._mapped(number, selected.inputs))
        outputs = builder.CreateNumpyVector(self._mapped(number, selected.outputs))
        name = builder.CreateString(self.subgraphs[number].Name() or b"main")
        c.SubGraphStart(builder)
        c.SubGraphAddTensors(builder, tensors)
        c.SubGraphAddInputs(builder, inputs)
        c.SubGraphAddOutputs(builder, outputs)
        c.SubGraphAddOperators(builder, operators)
        c.SubGraphAddName(builder, name)
        return int(c.SubGraphEnd(builder))

    def _added(self, number: int, first_code: int) -> tuple[list[Any], list[Any]]:
        """The tensors and operators that the model does not have; their codes start at `first_code`."""
        c, first_tensor = self.classes, len(self.tables[number].tensors)
        tensors: list[Any] = []
        operators: list[Any] = []
        if number in self.witnesses:
            one = 1 + len(self.contents) + len(self.values) + len(self.metadata)
            tensors += witness.dynamic_tensors(c, one)
            operators += witness.dynamic_operators(c, first_tensor, first_code)
        if self.halves and not number:
            first_tensor += len(tensors)
            first_code += witness.DYNAMIC_OPERATORS if self.witnesses else 0
            tensors += witness.reader_tensors(c, [len(self.graph.tensors[t].shape) for t in self.halves])
            operators += witness.reader_operators(c, self._mapped(0, self.halves), first_tensor, first_code)
        return tensors, operators

    def _mapped(self, number: int, tensors: Sequence[int]) -> Any:
        return np.array([self.new_index[number][t] for t in tensors], dtype=np.int32)

    def _tensor(self, number: int, index: int) -> int:
        table = self.classes.TensorT.InitFromObj(self.subgraphs[number].Tensors(index))
        row = self.tables[number].rows[index]
        table.buffer = self.buffers.get(row.buffer, 0)
        if not number:
            table.buffer = self.values.get(index, table.buffer)
            if index in self.fed or index in self.values:
                table.shape = np.array(row.shape, dtype=np.int32)
            elif min(row.shape, default=0) < 0:
                # No runtime takes a size that is left out, though the operator that makes the tensor will tell.
                table.shape = np.array([max(size, 1) for size in row.shape], dtype=np.int32)
        offset = int(table.Pack(self.builder))
        self._check_size(f"tensor {index}")
        return offset

    def _operator(self, number: int, index: int, codes: dict[int, int]) -> int:
        source = self.tables[number].source
        operators = self.graph.subgraphs[source].operators if number else self.graph.operators
        operator = operators[index]
        what = f"operator {index} ({operator.name})"
        row = self.subgraphs[number].Operators(index)
        table = self.classes.OperatorT.InitFromObj(row)
        behind = schema.large_options(self.data, row, what)
        if behind is not None:
            table.customOptions, table.largeCustomOptionsOffset, table.largeCustomOptionsSize = behind, 0, 0
        for kind, options in (
            (table.builtinOptionsType, table.builtinOptions),
            (table.builtinOptions2Type, table.builtinOptions2),
        ):
            if kind and options is None:
                raise ModelError(f"{what}: options of kind {kind} are unknown to the installed ai-edge-litert")
            if operator.subgraphs and options is not None:
                renumber(options, self.new_number)
        table.opcodeIndex = codes[table.opcodeIndex]
        table.inputs = self._mapped(number, operator.inputs)
        table.outputs = self._mapped(number, operator.outputs)
        if operator.intermediates:
            table.intermediates = self._mapped(number, operator.intermediates)
        table.debugMetadataIndex = -1
        offset = int(table.Pack(self.builder))
        self._check_size(what)
        return offset
