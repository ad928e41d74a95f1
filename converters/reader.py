"""The tables of a .tflite as rows, from hostile bytes: indices and lengths are checked before use (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from converters import schema
from converters.dataflow import DTYPES, Operator, Signature, Subgraph, Tensor
from converters.schema import Budget, Bytes, damage_as_model_error, vector
from converters.subgraphs import called
from slicemq.errors import ModelError

# Compiled for one kind of hardware: what such an operator does is not in the file.
_REFUSED = frozenset({"DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"})
_CALLERS = frozenset({"CALL", "CALL_ONCE", "IF", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE", "WHILE"})
# A model of this size has a few hundred; names and bytes are shown to people.
_MAX_METADATA = 1024
MAX_RANK = 64
# No machine holds such a tensor, and sums of millions of them still fit 64 bits.
_MAX_TENSOR_BYTES = 10**12


@dataclass(frozen=True)
class Rows:
    """What the file says; tensors are `constant` when they have data in it, nothing else is derived yet.

    subgraphs: all of the file, the model itself first. calls: for each operator of each subgraph the subgraphs that
    it calls itself.
    """

    description: str
    subgraphs: tuple[Subgraph, ...]
    calls: tuple[tuple[tuple[int, ...], ...], ...]
    signatures: tuple[Signature, ...]
    metadata: tuple[tuple[str, int], ...]


def read_rows(data: Bytes) -> Rows:
    """The tables of a .tflite file. Raises ModelError as `converters.graph.read_graph` does."""
    model = schema.root(data)
    with damage_as_model_error("model"):
        return _Reader(model, data).rows()


class _Reader:
    """Reads one model's tables; every index is checked before it is used."""

    def __init__(self, model: Any, data: Bytes) -> None:
        self.model = model
        self.data = data
        self.size = len(data)
        self.budget = Budget(self.size)
        self.count = self.budget.take(model.SubgraphsLength(), "subgraphs")
        if not self.count:
            raise ModelError("the model has no subgraphs: expected at least one")
        if model.ExternalBuffersLength():
            raise ModelError("the model keeps weights in files of their own (external buffers): not supported")
        self.buffers = self._buffers()
        self.codes = self._operator_codes()

    def rows(self) -> Rows:
        read = [self._subgraph(index) for index in range(self.count)]
        subgraphs = tuple(subgraph for subgraph, _ in read)
        if not subgraphs[0].outputs:
            raise ModelError("the model has no outputs")
        if not subgraphs[0].operators:
            raise ModelError("the model has no operators")
        return Rows(
            _text(self.model.Description()),
            subgraphs,
            tuple(calls for _, calls in read),
            self._signatures(subgraphs[0]),
            self._metadata(),
        )

    def _subgraph(self, index: int) -> tuple[Subgraph, tuple[tuple[int, ...], ...]]:
        where = f"subgraph {index}: " if index else ""
        table = self.model.Subgraphs(index)
        name = table.Name() or b""
        self.budget.take(len(name), f"{where}name", each=1)
        tensors = self._tensors(table, where)
        sides = []
        for side in ("Inputs", "Outputs"):
            what = f"subgraph {index}'s" if index else "the model's"
            sides.append(self._indices(table, side, len(tensors), f"{what} {side.lower()}"))
            if min(sides[-1], default=0) < 0:
                raise ModelError(f"{what} {side.lower()}: -1 among them, expected tensor indices")
        operators, calls = self._operators(table, tensors, where)
        return Subgraph(index, _text(name), tensors, operators, sides[0], sides[1]), calls

    def _signatures(self, main: Subgraph) -> tuple[Signature, ...]:
        """Those of the model itself; a file may have others, of subgraphs that only they start."""
        found = []
        for i in range(self.budget.take(self.model.SignatureDefsLength(), "signatures")):
            table = self.model.SignatureDefs(i)
            if table.SubgraphIndex():
                continue
            sides = []
            for side, known in (("Inputs", set(main.inputs)), ("Outputs", set(main.outputs))):
                names: dict[int, str] = {}
                for j in range(self.budget.take(getattr(table, f"{side}Length")(), f"signature {i}")):
                    entry = getattr(table, side)(j)
                    name = entry.Name() or b""
                    self.budget.take(len(name), f"signature {i}", each=1)
                    index = entry.TensorIndex()
                    if not 0 <= index < len(main.tensors):
                        raise ModelError(f"signature {i}: tensor {index}, the model has {len(main.tensors)}")
                    if index in known:
                        names.setdefault(index, _text(name))
                sides.append(names)
            key = table.SignatureKey() or b""
            self.budget.take(len(key), f"signature {i}", each=1)
            found.append(Signature(_text(key), sides[0], sides[1]))
        return tuple(found)

    def _metadata(self) -> tuple[tuple[str, int], ...]:
        found = []
        for i in range(min(self.budget.take(self.model.MetadataLength(), "metadata"), _MAX_METADATA)):
            entry = self.model.Metadata(i)
            name = entry.Name() or b""
            self.budget.take(len(name), f"metadata {i}", each=1)
            if not 0 <= entry.Buffer() < len(self.buffers):
                raise ModelError(f"metadata {i}: buffer {entry.Buffer()}, the model has {len(self.buffers)}")
            found.append((_text(name), max(self.buffers[entry.Buffer()], 0)))
        return tuple(found)

    def _buffers(self) -> list[int]:
        """Bytes of each buffer's data, -1 where it has none."""
        sizes = []
        contents = Budget(self.size)
        behind: set[tuple[int, int]] = set()  # there, equal contents are one
        for i in range(self.budget.take(self.model.BuffersLength(), "buffers")):
            offset, content = schema.buffer_content(self.data, self.model.Buffers(i), f"buffer {i}")
            size = -1 if content is None else len(content)
            if (offset, size) not in behind:
                contents.take(max(size, 0), f"buffer {i}", each=1)
            if offset:
                behind.add((offset, size))
            sizes.append(size)
        if self.size > schema.MAX_MODEL_BYTES and not behind:
            raise ModelError(f"model of {self.size} bytes: a flatbuffer of more than 2 GB cannot be read")
        return sizes

    def _operator_codes(self) -> list[tuple[str, int]]:
        known = schema.builtin_operators()
        names = {code: name for name, code in known.items()}
        codes = []
        for i in range(self.budget.take(self.model.OperatorCodesLength(), "operator codes")):
            code = self.model.OperatorCodes(i)
            builtin = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
            if builtin not in names:
                raise ModelError(f"operator code {i} is {builtin}: newer than the installed ai-edge-litert")
            name = names[builtin]
            if name == "CUSTOM":
                custom = code.CustomCode() or b""
                self.budget.take(len(custom), f"operator code {i}", each=1)
                name = _text(custom) or "CUSTOM"
                # What is known of an operator goes by its name.
                name = f"custom {name}" if name in known else name
            codes.append((name, code.Version()))
        return codes

    def _tensors(self, table: Any, where: str) -> tuple[Tensor, ...]:
        rows = []
        buffers = self.buffers
        for i in range(self.budget.take(table.TensorsLength(), f"{where}tensors")):
            tensor = table.Tensors(i)
            raw_name = tensor.Name() or b""
            self.budget.take(len(raw_name), f"{where}tensor {i}: name", each=1)
            name = _text(raw_name)
            what = f"{where}tensor {i} ({name})"
            if tensor.ShapeLength() > MAX_RANK or tensor.ShapeSignatureLength() > MAX_RANK:
                raise ModelError(f"{what}: {tensor.ShapeLength()} dimensions, at most {MAX_RANK} are supported")
            shape = tuple(vector(tensor, "Shape", self.budget, what))
            signature = tuple(vector(tensor, "ShapeSignature", self.budget, what)) or shape
            if min((*shape, *signature), default=0) < -1:
                raise ModelError(f"{what}: shape {shape} with a dimension below -1")
            if tensor.Type() not in DTYPES:
                raise ModelError(f"{what}: type {tensor.Type()} is newer than this version of SliceMQ")
            dtype, each = DTYPES[tensor.Type()]
            if tensor.ExternalBuffer():
                raise ModelError(f"{what}: its data is in a file of its own (external buffer): not supported")
            if not 0 <= tensor.Buffer() < len(buffers):
                raise ModelError(f"{what}: buffer {tensor.Buffer()}, the model has {len(buffers)}")
            self._count_quantization(tensor, what)
            sparse = tensor.Sparsity() is not None
            nbytes = math.ceil(math.prod(shape) * each) if min(shape, default=0) >= 0 else 0
            if nbytes > _MAX_TENSOR_BYTES:
                raise ModelError(f"{what}: {dtype} {list(shape)} takes {nbytes} bytes, at most 10^12 are supported")
            weight = buffers[tensor.Buffer()]
            if weight > 0 and min(shape, default=0) < 0:
                raise ModelError(f"{what}: shape {list(shape)} with an open size, although it has data")
            packed = each < 1
            if weight > 0 and not sparse and not packed and nbytes and weight != nbytes:
                raise ModelError(f"{what}: {dtype} {list(shape)} takes {nbytes} bytes, its buffer has {weight}")
            variable = bool(tensor.IsVariable())
            if variable and weight > 0:
                raise ModelError(f"{what}: a variable tensor with data of its own: no runtime takes it")
            rows.append(
                Tensor(
                    index=i,
                    name=name,
                    dtype=dtype,
                    shape=shape,
                    signature=signature,
                    nbytes=nbytes,
                    constant=weight >= 0 and not variable,
                    weight_bytes=max(weight, 0),
                    buffer=tensor.Buffer(),
                    sparse=sparse,
                    variable=variable,
                )
            )
        return tuple(rows)

    def _count_quantization(self, tensor: Any, what: str) -> None:
        quantization = tensor.Quantization()
        if quantization is not None:
            for field, each in (("Scale", 4), ("ZeroPoint", 8), ("Min", 4), ("Max", 4)):
                self.budget.take(getattr(quantization, f"{field}Length")(), f"{what} {field}", each)
        sparsity = tensor.Sparsity()
        if sparsity is not None and sparsity.DimMetadataLength() > 2 * MAX_RANK:
            raise ModelError(f"{what}: {sparsity.DimMetadataLength()} sparse dimensions")

    def _operators(
        self, table: Any, tensors: Sequence[Tensor], where: str
    ) -> tuple[tuple[Operator, ...], tuple[tuple[int, ...], ...]]:
        rows, calls = [], []
        for i in range(self.budget.take(table.OperatorsLength(), f"{where}operators")):
            operator = table.Operators(i)
            if not 0 <= operator.OpcodeIndex() < len(self.codes):
                code = operator.OpcodeIndex()
                raise ModelError(f"{where}operator {i}: code {code}, the model has {len(self.codes)}")
            name, version = self.codes[operator.OpcodeIndex()]
            what = f"{where}operator {i} ({name})"
            if name in _REFUSED:
                raise ModelError(f"{what}: a model compiled for a delegate cannot be cut")
            schema.large_options(self.data, operator, what)
            sides = ("Inputs", "Outputs", "Intermediates")
            inputs, outputs, between = (self._indices(operator, side, len(tensors), what) for side in sides)
            calls.append(self._calls(operator, name, what))
            handle = self._handle(operator, name, what)
            rows.append(Operator(i, name, version, inputs, outputs, between, False, False, 0, 0, handle=handle))
        return tuple(rows), tuple(calls)

    def _calls(self, operator: Any, name: str, what: str) -> tuple[int, ...]:
        targets = called(operator, self.budget, what)
        if name in _CALLERS and not targets:
            raise ModelError(f"{what}: its options are missing, expected the subgraph that it calls")
        for target in targets:
            if not 0 <= target < self.count:
                raise ModelError(f"{what} calls subgraph {target}, the model has {self.count}")
        return targets

    def _handle(self, operator: Any, name: str, what: str) -> str:
        """The variable whose handle the operator makes, in words; different variables have different ones."""
        if name not in ("VAR_HANDLE", "HASHTABLE"):
            return ""
        classes = schema.classes()
        table = classes.VarHandleOptions() if name == "VAR_HANDLE" else classes.HashtableOptions()
        options = operator.BuiltinOptions()
        if options is None or operator.BuiltinOptionsType() != getattr(
            classes.BuiltinOptions, type(table).__name__
        ):
            raise ModelError(f"{what}: its options are missing, expected what it makes a handle of")
        table.Init(options.Bytes, options.Pos)
        if name == "HASHTABLE":
            return f"hash table {table.TableId()}"
        names = [table.SharedName() or b"", table.Container() or b""]
        for one in names:
            self.budget.take(len(one), what, each=1)
        shared, container = (one.decode("utf-8", "backslashreplace") for one in names)
        return f"variable {shared!r}" + (f" in container {container!r}" if container else "")

    def _indices(self, table: Any, field: str, tensors: int, what: str) -> tuple[int, ...]:
        indices = tuple(vector(table, field, self.budget, what))
        for index in indices:
            if not -1 <= index < tensors:
                raise ModelError(f"{what}: tensor {index} does not exist, there are {tensors}")
        return indices


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")
