"""The tables of a .tflite as rows, from hostile bytes: indices and lengths are checked before use (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from converters import schema
from converters.dataflow import DTYPES, Operator, Tensor
from converters.schema import Budget, Bytes, damage_as_model_error, vector
from slicemq.errors import ModelError

# Operators that hold state between frames or call other subgraphs: cut wrongly, they would answer wrongly.
_REFUSED = {
    "ASSIGN_VARIABLE": "stateful models (resource variables)",
    "CALL": "models with several subgraphs",
    "CALL_ONCE": "stateful models (resource variables)",
    "DELEGATE": "models compiled for a delegate",
    "HASHTABLE": "models with hash tables",
    "HASHTABLE_FIND": "models with hash tables",
    "HASHTABLE_IMPORT": "models with hash tables",
    "HASHTABLE_SIZE": "models with hash tables",
    "IF": "models with several subgraphs",
    "READ_VARIABLE": "stateful models (resource variables)",
    "STABLEHLO_COMPOSITE": "models with several subgraphs",
    "STABLEHLO_WHILE": "models with several subgraphs",
    "VAR_HANDLE": "stateful models (resource variables)",
    "WHILE": "models with several subgraphs",
}
MAX_RANK = 64


@dataclass(frozen=True)
class Rows:
    """What the file says: tensors are `constant` when they have data in the file; nothing else is derived yet."""

    description: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_rows(data: Bytes) -> Rows:
    """The tables of a .tflite file. Raises ModelError as `converters.graph.read_graph` does."""
    model = schema.root(data)
    with damage_as_model_error("model"):
        return _Reader(model, len(data)).rows()


class _Reader:
    """Reads one model's tables; every index is checked before it is used."""

    def __init__(self, model: Any, size: int) -> None:
        self.model = model
        self.size = size
        self.budget = Budget(size)
        if model.SubgraphsLength() != 1:
            raise ModelError(
                f"the model has {model.SubgraphsLength()} subgraphs: only models with one can be cut so far"
            )
        if model.ExternalBuffersLength():
            raise ModelError("the model keeps weights in files of their own (external buffers): not supported")
        self.subgraph = model.Subgraphs(0)

    def rows(self) -> Rows:
        buffers = self._buffers()
        names = self._operator_codes()
        tensors = self._tensors(buffers)
        inputs = self._indices(self.subgraph, "Inputs", len(tensors), "the model's inputs")
        outputs = self._indices(self.subgraph, "Outputs", len(tensors), "the model's outputs")
        if min((*inputs, *outputs), default=0) < 0:
            raise ModelError("the model lists -1 among its inputs or outputs, expected tensor indices")
        if not outputs:
            raise ModelError("the model has no outputs")
        operators = self._operators(names, len(tensors))
        if not operators:
            raise ModelError("the model has no operators")
        description = (self.model.Description() or b"").decode("utf-8", "replace")
        return Rows(description, tuple(tensors), tuple(operators), inputs, outputs)

    def _buffers(self) -> list[int]:
        """Bytes of each buffer's data, -1 where it has none."""
        sizes = []
        for i in range(self.budget.take(self.model.BuffersLength(), "buffers")):
            buffer = self.model.Buffers(i)
            if buffer.Offset() > 1 or buffer.Size() > 1:
                raise ModelError(f"buffer {i} lies outside the flatbuffer (a model over 2 GB): not supported")
            if buffer.DataIsNone():
                sizes.append(-1)
                continue
            length = buffer.DataLength()
            if length > self.size or (length and len(buffer.DataAsNumpy()) != length):
                raise ModelError(f"buffer {i}: {length} bytes, the file has {self.size}")
            sizes.append(length)
        return sizes

    def _operator_codes(self) -> list[tuple[str, int]]:
        names = {
            value: name
            for name, value in vars(schema.classes().BuiltinOperator).items()
            if isinstance(value, int) and not name.startswith("_")
        }
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
                name = custom.decode("utf-8", "replace") or "CUSTOM"
            codes.append((name, code.Version()))
        return codes

    def _tensors(self, buffers: list[int]) -> list[Tensor]:
        rows = []
        for i in range(self.budget.take(self.subgraph.TensorsLength(), "tensors")):
            tensor = self.subgraph.Tensors(i)
            raw_name = tensor.Name() or b""
            self.budget.take(len(raw_name), f"tensor {i}: name", each=1)
            name = raw_name.decode("utf-8", "replace")
            what = f"tensor {i} ({name})"
            if tensor.ShapeLength() > MAX_RANK or tensor.ShapeSignatureLength() > MAX_RANK:
                raise ModelError(f"{what}: {tensor.ShapeLength()} dimensions, at most {MAX_RANK} are supported")
            shape = tuple(vector(tensor, "Shape", self.budget, what))
            signature = tuple(vector(tensor, "ShapeSignature", self.budget, what)) or shape
            if min((*shape, *signature), default=0) < -1:
                raise ModelError(f"{what}: shape {shape} with a dimension below -1")
            if tensor.Type() not in DTYPES:
                raise ModelError(f"{what}: type {tensor.Type()} is newer than this version of SliceMQ")
            dtype, each = DTYPES[tensor.Type()]
            if dtype in ("resource", "variant") or tensor.IsVariable() or tensor.VariantTensorsLength():
                raise ModelError(f"{what}: stateful models (resources, variables) cannot be cut so far")
            if tensor.ExternalBuffer():
                raise ModelError(f"{what}: its data is in a file of its own (external buffer): not supported")
            if not 0 <= tensor.Buffer() < len(buffers):
                raise ModelError(f"{what}: buffer {tensor.Buffer()}, the model has {len(buffers)}")
            self._count_quantization(tensor, what)
            sparse = tensor.Sparsity() is not None
            nbytes = math.ceil(math.prod(shape) * each) if min(shape, default=0) >= 0 else 0
            weight = buffers[tensor.Buffer()]
            packed = each < 1
            if weight > 0 and not sparse and not packed and nbytes and weight != nbytes:
                raise ModelError(f"{what}: {dtype} {list(shape)} takes {nbytes} bytes, its buffer has {weight}")
            rows.append(
                Tensor(
                    i, name, dtype, shape, signature, nbytes, weight >= 0, max(weight, 0), tensor.Buffer(), sparse
                )
            )
        return rows

    def _count_quantization(self, tensor: Any, what: str) -> None:
        quantization = tensor.Quantization()
        if quantization is not None:
            for field, each in (("Scale", 4), ("ZeroPoint", 8), ("Min", 4), ("Max", 4)):
                self.budget.take(getattr(quantization, f"{field}Length")(), f"{what} {field}", each)
        sparsity = tensor.Sparsity()
        if sparsity is not None and sparsity.DimMetadataLength() > 2 * MAX_RANK:
            raise ModelError(f"{what}: {sparsity.DimMetadataLength()} sparse dimensions")

    def _operators(self, names: list[tuple[str, int]], tensors: int) -> list[Operator]:
        rows = []
        for i in range(self.budget.take(self.subgraph.OperatorsLength(), "operators")):
            operator = self.subgraph.Operators(i)
            if not 0 <= operator.OpcodeIndex() < len(names):
                raise ModelError(f"operator {i}: code {operator.OpcodeIndex()}, the model has {len(names)}")
            name, version = names[operator.OpcodeIndex()]
            what = f"operator {i} ({name})"
            if name in _REFUSED:
                raise ModelError(f"{what}: {_REFUSED[name]} cannot be cut so far")
            if operator.LargeCustomOptionsOffset() or operator.LargeCustomOptionsSize():
                raise ModelError(f"{what}: options outside the flatbuffer (a model over 2 GB): not supported")
            fields = [
                self._indices(operator, field, tensors, what) for field in ("Inputs", "Outputs", "Intermediates")
            ]
            rows.append(Operator(i, name, version, fields[0], fields[1], fields[2], False, False, 0, 0))
        return rows

    def _indices(self, table: Any, field: str, tensors: int, what: str) -> tuple[int, ...]:
        indices = tuple(vector(table, field, self.budget, what))
        for index in indices:
            if not -1 <= index < tensors:
                raise ModelError(f"{what}: tensor {index} does not exist, the model has {tensors}")
        return indices
