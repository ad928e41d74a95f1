"""Write one slice's .tflite from a model's flatbuffer: only what its operators need (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import schema
from converters.graph import Graph
from converters.schema import Bytes, damage_as_model_error
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

    A slice of a dynamic model gets two tiny operators of its own, which make it dynamic (`converters.dynamic`).

    Tensors keep their names, types, shapes, signatures, quantisation and sparsity, and the order of their indices;
    the inputs get the shapes that `graph` has (`converters.shapes` finds them where the file's are wrong); buffers
    that several tensors share are written once. The bytes depend on the arguments only.
    Raises ModelError when the model's bytes do not hold together.
    """
    with damage_as_model_error("model"):
        return _Writer(schema.root(data), graph, operators, inputs, outputs).write()


class _Writer:
    def __init__(
        self, model: Any, graph: Graph, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
    ) -> None:
        self.classes = schema.classes()
        self.model = model
        self.subgraph = model.Subgraphs(0)
        self.graph = graph
        self.operators = operators
        self.inputs = inputs
        self.outputs = outputs
        needed = set(inputs) | set(outputs)
        for index in operators:
            operator = graph.operators[index]
            needed.update((*operator.inputs, *operator.outputs, *operator.intermediates))
        needed.discard(-1)
        self.tensors = sorted(needed)
        self.new_index = {-1: -1, **{old: new for new, old in enumerate(self.tensors)}}
        used = dict.fromkeys(graph.tensors[t].buffer for t in self.tensors)
        kept = [b for b in used if not model.Buffers(b).DataIsNone()]
        self.buffers = {b: new for new, b in enumerate(kept, start=1)}
        self.values = {
            t: new for new, t in enumerate((t for t in self.tensors if t in graph.values), start=1 + len(kept))
        }
        self.metadata = self._metadata()
        weights = sum(model.Buffers(b).DataLength() for b in self.buffers)
        every = sum({t.buffer: t.weight_bytes for t in graph.tensors}.values())
        # Room for everything at once: the builder doubles when it is short, which a slice of 100 MB should not do.
        self.limit = 2 * (weights + max(graph.size - every, 0)) + (1 << 16)
        room = weights + _ALIGN * len(self.buffers) + 2 * max(graph.size - every, 0) + (1 << 12)
        self.builder = schema.builder(min(room, schema.MAX_MODEL_BYTES))

    def write(self) -> bytes:
        c, builder = self.classes, self.builder
        contents = [self._bytes(self.model.Buffers(b).DataAsNumpy()) for b in self.buffers]
        contents += [self._bytes(np.frombuffer(self.graph.values[t], np.uint8)) for t in self.values]
        extra = [self._bytes(self.model.Buffers(b).DataAsNumpy()) for _, b in self.metadata]
        one = [self._bytes(np.array([1, 0, 0, 0], np.uint8))] if self.graph.dynamic else []
        buffers = self._tables([self._buffer(None), *(self._buffer(at) for at in (*contents, *extra, *one))])
        codes, code_tables = self._operator_codes()
        subgraph = self._tables([self._subgraph(codes)])
        code_vector = self._tables(code_tables)
        metadata = self._tables(
            [self._metadata_entry(name, 1 + len(contents) + i) for i, (name, _) in enumerate(self.metadata)]
        )
        description = builder.CreateString(self.model.Description() or b"")
        c.ModelStart(builder)
        c.ModelAddVersion(builder, self.model.Version())
        c.ModelAddOperatorCodes(builder, code_vector)
        c.ModelAddSubgraphs(builder, subgraph)
        c.ModelAddDescription(builder, description)
        c.ModelAddBuffers(builder, buffers)
        if self.metadata:
            c.ModelAddMetadata(builder, metadata)
        builder.Finish(c.ModelEnd(builder), schema.IDENTIFIER)
        self._check_size("the slice")
        return bytes(memoryview(builder.Bytes)[builder.Head() :])

    def _metadata(self) -> list[tuple[bytes, int]]:
        """(name, buffer) of the metadata that a slice keeps."""
        found = []
        for i in range(min(self.model.MetadataLength(), 1024)):
            entry = self.model.Metadata(i)
            name, buffer = entry.Name(), entry.Buffer()
            if name in _KEPT_METADATA and 0 <= buffer < self.model.BuffersLength():
                size = self.model.Buffers(buffer).DataLength()
                if 0 < size <= _MAX_METADATA_BYTES:
                    found.append((name, buffer))
        return found

    def _check_size(self, what: str) -> None:
        if self.builder.Offset() > self.limit:
            raise ModelError(f"{what}: damaged TFLite flatbuffer (it grows when it is copied)")

    def _bytes(self, content: Any) -> int:
        """Write a vector of bytes, its first byte at a multiple of 16, without a copy in between."""
        size = len(content) if isinstance(content, np.ndarray) else 0  # the schema classes give 0 for an empty one
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
        used = sorted({self.subgraph.Operators(i).OpcodeIndex() for i in self.operators})
        tables = []
        for index in used:
            table = self.classes.OperatorCodeT.InitFromObj(self.model.OperatorCodes(index))
            tables.append(int(table.Pack(self.builder)))
            self._check_size(f"operator code {index}")
        if self.graph.dynamic:
            for builtin in (self.classes.BuiltinOperator.MAXIMUM, self.classes.BuiltinOperator.RESHAPE):
                code = self.classes.OperatorCodeT(deprecatedBuiltinCode=builtin, builtinCode=builtin)
                tables.append(int(code.Pack(self.builder)))
        return {old: new for new, old in enumerate(used)}, tables

    def _subgraph(self, codes: dict[int, int]) -> int:
        c, builder = self.classes, self.builder
        tensor_tables = [self._tensor(i) for i in self.tensors]
        operator_tables = [self._operator(i, codes) for i in self.operators]
        if self.graph.dynamic:
            tensor_tables += self._witness_tensors()
            operator_tables += self._witness_operators(len(codes))
        tensors, operators = self._tables(tensor_tables), self._tables(operator_tables)
        inputs = builder.CreateNumpyVector(self._mapped(self.inputs))
        outputs = builder.CreateNumpyVector(self._mapped(self.outputs))
        name = builder.CreateString(self.subgraph.Name() or b"main")
        c.SubGraphStart(builder)
        c.SubGraphAddTensors(builder, tensors)
        c.SubGraphAddInputs(builder, inputs)
        c.SubGraphAddOutputs(builder, outputs)
        c.SubGraphAddOperators(builder, operators)
        c.SubGraphAddName(builder, name)
        return int(c.SubGraphEnd(builder))

    def _witness_tensors(self) -> list[int]:
        """int32 [1] tensors: the constant 1, a shape that is computed from it, what is reshaped to that."""
        tensors = []
        last = len(self.buffers) + len(self.values) + len(self.metadata)
        for name, buffer in (("one", 1 + last), ("shape", 0), ("reshaped", 0)):
            table = self.classes.TensorT(
                shape=np.array([1], np.int32),
                type=self.classes.TensorType.INT32,
                buffer=buffer,
                name=f"slicemq/dynamic/{name}",
            )
            tensors.append(int(table.Pack(self.builder)))
        return tensors

    def _witness_operators(self, first_code: int) -> list[int]:
        """shape = MAXIMUM(one, one); reshaped = RESHAPE(one, shape): no runtime folds the first before it runs."""
        one, shape, reshaped = range(len(self.tensors), len(self.tensors) + 3)
        operators = []
        for code, inputs, output in ((first_code, [one, one], shape), (first_code + 1, [one, shape], reshaped)):
            table = self.classes.OperatorT(
                opcodeIndex=code, inputs=np.array(inputs, np.int32), outputs=np.array([output], np.int32)
            )
            operators.append(int(table.Pack(self.builder)))
        return operators

    def _mapped(self, tensors: Sequence[int]) -> Any:
        return np.array([self.new_index[t] for t in tensors], dtype=np.int32)

    def _tensor(self, index: int) -> int:
        table = self.classes.TensorT.InitFromObj(self.subgraph.Tensors(index))
        buffer = self.graph.tensors[index].buffer
        table.buffer = self.values.get(index, self.buffers.get(buffer, 0))
        if index in self.inputs or index in self.values:
            table.shape = np.array(self.graph.tensors[index].shape, dtype=np.int32)
        offset = int(table.Pack(self.builder))
        self._check_size(f"tensor {index}")
        return offset

    def _operator(self, index: int, codes: dict[int, int]) -> int:
        operator = self.graph.operators[index]
        what = f"operator {index} ({operator.name})"
        table = self.classes.OperatorT.InitFromObj(self.subgraph.Operators(index))
        for kind, options in (
            (table.builtinOptionsType, table.builtinOptions),
            (table.builtinOptions2Type, table.builtinOptions2),
        ):
            if kind and options is None:
                raise ModelError(f"{what}: options of kind {kind} are unknown to the installed ai-edge-litert")
        table.opcodeIndex = codes[table.opcodeIndex]
        table.inputs = self._mapped(operator.inputs)
        table.outputs = self._mapped(operator.outputs)
        if operator.intermediates:
            table.intermediates = self._mapped(operator.intermediates)
        table.debugMetadataIndex = -1
        offset = int(table.Pack(self.builder))
        self._check_size(what)
        return offset
