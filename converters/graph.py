"""The dataflow graph of a .tflite flatbuffer: bytes in, dataclasses out (pure).

Words: an operator is *constant* when it is fed by constants only (a DEQUANTIZE of float16 weights, a DENSIFY); it
goes with each slice that uses what it makes. An operator is *dead* when no output of the model depends on it; no
slice has it. All others are the *steps*, in the file's order, which is the order in which TFLite runs them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from converters import schema
from converters.costs import multiply_adds
from converters.dynamic import prepared_tensors
from converters.schema import Budget, Bytes, damage_as_model_error, vector
from slicemq.errors import ModelError

# numpy's name and bytes per element (0: packed below a byte, or of no fixed size) by TensorType.
_DTYPES: dict[int, tuple[str, float]] = {
    0: ("float32", 4),
    1: ("float16", 2),
    2: ("int32", 4),
    3: ("uint8", 1),
    4: ("int64", 8),
    5: ("string", 0),
    6: ("bool", 1),
    7: ("int16", 2),
    8: ("complex64", 8),
    9: ("int8", 1),
    10: ("float64", 8),
    11: ("complex128", 16),
    12: ("uint64", 8),
    13: ("resource", 0),
    14: ("variant", 0),
    15: ("uint32", 4),
    16: ("uint16", 2),
    17: ("int4", 0.5),
    18: ("bfloat16", 2),
    19: ("int2", 0.25),
    20: ("uint4", 0.5),
    21: ("float8_e4m3fn", 1),
    22: ("float8_e5m2", 1),
}
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
# Two slices that each ran one of these would not see the same numbers, so they never count as constant.
RANDOM_OPERATORS = frozenset(
    {"RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "MULTINOMIAL", "STABLEHLO_RNG_BIT_GENERATOR"}
)
MAX_RANK = 64
# Real constants have one to three operators behind them; a chain of thousands would take quadratic memory.
_MAX_BEHIND = 1_000_000
_CLASSES = {
    "CONV_2D": "conv",
    "CONV_3D": "conv",
    "CONV_3D_TRANSPOSE": "conv",
    "TRANSPOSE_CONV": "conv",
    "STABLEHLO_CONVOLUTION": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
    "BATCH_MATMUL": "dense",
    "FULLY_CONNECTED": "dense",
    "STABLEHLO_DOT_GENERAL": "dense",
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model.

    dtype: numpy's name, or `string`, `resource`, `variant`, `int4` and the like for what numpy has no name for.
    shape: as the runtime allocates it, -1 where the file does not say; signature: the same with -1 for each
    dimension that may be resized. nbytes: bytes of the whole tensor, 0 if unknown. constant: its value is in the
    file, or made by constant operators. weight_bytes: bytes of its own buffer.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    nbytes: int
    constant: bool
    weight_bytes: int
    buffer: int
    sparse: bool = False


@dataclass(frozen=True)
class Operator:
    """An operator of the model.

    index: its place in the file. name: `CONV_2D`, or a custom operator's own name. inputs and outputs: tensor
    indices, -1 for an optional one that is left out. macs: multiply-adds of one frame, an estimate.
    weight_bytes: bytes of the buffers that it reads, through constant operators too.
    """

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]
    constant: bool
    dead: bool
    macs: int
    weight_bytes: int


@dataclass(frozen=True)
class Graph:
    """A model's dataflow: tensors and operators by their index in the file. `size` is the file's, in bytes.

    prepared: tensors (no constants) that a runtime computes before the first frame, such as shapes. dynamic:
    whether some shapes are known only while the model runs (`converters.dynamic`). values: tensors that an
    operator of the file makes and that slices hold as constants (`converters.folding`), little-endian.
    """

    sha256: str
    size: int
    description: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[int, ...]
    prepared: frozenset[int] = frozenset()
    dynamic: bool = False
    values: Mapping[int, bytes] = field(default_factory=dict)

    @cached_property
    def producer(self) -> dict[int, int]:
        """Tensor index -> index of the operator that makes it."""
        return {t: op.index for op in self.operators for t in op.outputs if t >= 0}

    @cached_property
    def consumers(self) -> dict[int, tuple[int, ...]]:
        """Tensor index -> the steps that read it, in order."""
        found: dict[int, list[int]] = {}
        for step in self.steps:
            for tensor in dict.fromkeys(self.operators[step].inputs):
                if tensor >= 0:
                    found.setdefault(tensor, []).append(step)
        return {tensor: tuple(steps) for tensor, steps in found.items()}

    def constant_operators(self, tensors: Sequence[int]) -> set[int]:
        """The constant operators that make the constants among `tensors`, and those that feed them."""
        found: set[int] = set()
        todo = [t for t in tensors if t >= 0]
        while todo:
            maker = self.producer.get(todo.pop())
            if maker is not None and maker not in found and self.operators[maker].constant:
                found.add(maker)
                todo.extend(t for t in self.operators[maker].inputs if t >= 0)
        return found

    def crossing(self, position: int) -> tuple[int, ...]:
        """The tensors made by `steps[:position]` that `steps[position:]` read, sorted."""
        return self.crossings[position]

    @cached_property
    def crossings(self) -> tuple[tuple[int, ...], ...]:
        """`crossing` of each position from 0 to len(steps)."""
        place = {step: i for i, step in enumerate(self.steps)}
        last = {t: place[steps[-1]] for t, steps in self.consumers.items()}
        alive: set[int] = set()
        rows: list[tuple[int, ...]] = [()]
        for i, step in enumerate(self.steps):
            operator = self.operators[step]
            alive.update(t for t in operator.outputs if t >= 0 and last.get(t, -1) > i)
            alive.difference_update(t for t in operator.inputs if t >= 0 and last[t] <= i)
            rows.append(tuple(sorted(alive)))
        return tuple(rows)


def operator_class(name: str) -> str:
    """The class whose speed nodes measure: `conv`, `depthwise`, `dense` or `elementwise` (all the rest)."""
    return _CLASSES.get(name, "elementwise")


def dtype_bytes(dtype: str) -> float:
    """Bytes per element of `dtype` as `Tensor.dtype` names it; 0 when it has no fixed size."""
    return next((size for name, size in _DTYPES.values() if name == dtype), 0)


def read_graph(data: Bytes) -> Graph:
    """Read the graph of a .tflite file.

    Raises ModelError for what is not a sound .tflite, and for models that cannot be cut rightly yet: several
    subgraphs, state, buffers outside the flatbuffer, more than 2 GB.
    """
    model = schema.root(data)
    with damage_as_model_error("model"):
        return _Reader(model, len(data)).graph(hashlib.sha256(data).hexdigest())


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

    def graph(self, sha256: str) -> Graph:
        buffers = self._buffers()
        names = self._operator_codes()
        rows = self._tensors(buffers)
        inputs = self._indices(self.subgraph, "Inputs", len(rows), "the model's inputs")
        outputs = self._indices(self.subgraph, "Outputs", len(rows), "the model's outputs")
        if min((*inputs, *outputs), default=0) < 0:
            raise ModelError("the model lists -1 among its inputs or outputs, expected tensor indices")
        if not outputs:
            raise ModelError("the model has no outputs")
        operators = self._operators(names, len(rows))
        if not operators:
            raise ModelError("the model has no operators")
        constant = _check_order(rows, operators, inputs)
        live = _live(operators, outputs)
        tensors = tuple(replace(t, constant=t.index in constant) for t in rows)
        finished = _finish(tensors, operators, constant, live)
        prepared, dynamic = prepared_tensors(operators, {t.index for t in rows if t.constant})
        description = (self.model.Description() or b"").decode("utf-8", "replace")
        return Graph(
            sha256=sha256,
            size=self.size,
            description=description,
            tensors=tensors,
            operators=finished,
            inputs=inputs,
            outputs=outputs,
            steps=tuple(op.index for op in finished if not op.constant and not op.dead),
            prepared=prepared,
            dynamic=dynamic,
        )

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
            if tensor.Type() not in _DTYPES:
                raise ModelError(f"{what}: type {tensor.Type()} is newer than this version of SliceMQ")
            dtype, each = _DTYPES[tensor.Type()]
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


def _check_order(tensors: list[Tensor], operators: list[Operator], inputs: tuple[int, ...]) -> set[int]:
    """The constant tensors. Raises ModelError unless each tensor is made once and before it is read."""
    made = {t for op in operators for t in op.outputs if t >= 0}
    for index in inputs:
        if tensors[index].constant or index in made:
            raise ModelError(f"tensor {index} ({tensors[index].name}) is an input and has a value of its own")
    constant = {t.index for t in tensors if t.index not in made} - set(inputs)
    known = constant | set(inputs)
    for operator in operators:
        what = f"operator {operator.index} ({operator.name})"
        reads = [t for t in (*operator.inputs, *operator.intermediates) if t >= 0]
        for index in reads:
            if index not in known:
                raise ModelError(f"{what} reads tensor {index} ({tensors[index].name}) before it is made")
        for index in operator.outputs:
            if index < 0:
                continue
            if index in known or tensors[index].constant:
                raise ModelError(f"{what} makes tensor {index} ({tensors[index].name}), which has a value already")
            known.add(index)
        if operator.name not in RANDOM_OPERATORS and constant.issuperset(reads):
            constant.update(t for t in operator.outputs if t >= 0)
    return constant


def _live(operators: list[Operator], outputs: tuple[int, ...]) -> set[int]:
    """The operators on which some output of the model depends."""
    needed = set(outputs)
    live = set()
    for operator in reversed(operators):
        if needed.intersection(operator.outputs):
            live.add(operator.index)
            needed.update(t for t in operator.inputs if t >= 0)
    return live


def _macs(tensors: Sequence[Tensor], operator: Operator) -> int:
    sides = (operator.inputs, operator.outputs)
    inputs, outputs = ([tensors[t].shape if t >= 0 else None for t in side] for side in sides)
    return multiply_adds(operator.name, inputs, outputs)


def with_shapes(graph: Graph, shapes: Mapping[int, tuple[int, ...]]) -> Graph:
    """`graph` with other shapes for some tensors (by index); bytes and multiply-adds follow."""
    tensors = list(graph.tensors)
    for index, shape in shapes.items():
        old = tensors[index]
        nbytes = math.ceil(math.prod(shape) * dtype_bytes(old.dtype))
        tensors[index] = replace(old, shape=shape, nbytes=nbytes)
    operators = tuple(replace(op, macs=_macs(tensors, op)) for op in graph.operators)
    return replace(graph, tensors=tuple(tensors), operators=operators)


def rebuilt(graph: Graph, values: Mapping[int, bytes]) -> Graph:
    """`graph` with `values` (little-endian, by tensor index) as constants, without the operators that make them."""
    tensors = tuple(
        replace(t, constant=True, nbytes=len(values[t.index])) if t.index in values else t for t in graph.tensors
    )
    folded = {graph.producer[t] for t in values}
    kept = [op for op in graph.operators if op.index not in folded]
    constant = {t.index for t in tensors if t.constant}
    for operator in kept:
        if operator.name not in RANDOM_OPERATORS and constant.issuperset(t for t in operator.inputs if t >= 0):
            constant.update(t for t in operator.outputs if t >= 0)
    tensors = tuple(replace(t, constant=t.index in constant) for t in tensors)
    finished = {op.index: op for op in _finish(tensors, kept, constant, _live(kept, graph.outputs))}
    operators = tuple(finished.get(op.index, replace(op, constant=False, dead=True)) for op in graph.operators)
    steps = tuple(op.index for op in operators if not op.constant and not op.dead)
    return replace(graph, tensors=tensors, operators=operators, steps=steps, values={**graph.values, **values})


def _finish(
    tensors: tuple[Tensor, ...], operators: list[Operator], constant: set[int], live: set[int]
) -> tuple[Operator, ...]:
    """The operators with what follows from the whole graph: constant, dead, macs, weight bytes."""
    sizes = {t.buffer: t.weight_bytes for t in tensors}
    behind: dict[int, frozenset[tuple[str, int]]] = {}  # constant tensor -> the buffers and operators behind it
    counted = 0
    finished = []
    for operator in operators:
        sources: set[tuple[str, int]] = set()
        for index in operator.inputs:
            if index in behind:
                sources.update(behind[index])
            elif index >= 0 and tensors[index].weight_bytes:
                sources.add(("buffer", tensors[index].buffer))
        counted += len(sources)
        if counted > _MAX_BEHIND + 16 * len(operators):
            raise ModelError(f"operator {operator.index} ({operator.name}): too many constants stand behind it")
        outputs = [t for t in operator.outputs if t >= 0]
        is_constant = bool(outputs) and constant.issuperset(outputs)
        if is_constant:
            shared = frozenset((*sources, ("operator", operator.index)))
            behind.update(dict.fromkeys(outputs, shared))
        finished.append(
            replace(
                operator,
                constant=is_constant,
                dead=operator.index not in live,
                macs=_macs(tensors, operator),
                weight_bytes=sum(sizes[number] for kind, number in sources if kind == "buffer"),
            )
        )
    return tuple(finished)
