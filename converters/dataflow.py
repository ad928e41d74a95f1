"""A model's dataflow as dataclasses: tensors, operators, and what crosses between them (pure).

Words: an operator is *constant* when it is fed by constants only (a DEQUANTIZE of float16 weights, a DENSIFY); it
goes with each slice that uses what it makes. So does a *recomputed* one, which is cheaper to run again than to
send what it makes (`converters.recompute`). An operator is *dead* when no output of the model depends on it; no
slice has it. All others are the *steps*, in an order in which they can run: the file's, except where a model keeps
state or its operators are not sorted (`converters.order`).

A *variable* is what a runtime keeps from one frame to the next: a resource variable (by container and shared name),
a hash table that is filled while the model runs, or a tensor that an operator keeps (an LSTM's state). What only
initialisation writes is no variable but a constant: each slice that reads it has a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from converters.crossings import Crossings, Span, summed

# numpy's name and bytes per element (0: packed below a byte, or of no fixed size) by TensorType.
DTYPES: dict[int, tuple[str, float]] = {
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
# Two slices that each ran one of these would not see the same numbers, so they never count as constant.
RANDOM_OPERATORS = frozenset(
    {"RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "MULTINOMIAL", "STABLEHLO_RNG_BIT_GENERATOR"}
)
STATE_WRITERS = frozenset({"ASSIGN_VARIABLE", "HASHTABLE_IMPORT"})
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
    file, or made by constant operators. weight_bytes: bytes of its own buffer. variable: an operator keeps state in
    it, so that it never leaves the slice. varying: the dimensions whose size differs from frame to frame; `shape`
    has what one frame had.
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
    variable: bool = False
    varying: tuple[int, ...] = ()

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape that every frame has, -1 where they differ."""
        return tuple(-1 if i in self.varying else size for i, size in enumerate(self.shape))


@dataclass(frozen=True)
class Operator:
    """An operator of the model.

    index: its place in the file. name: `CONV_2D`, or a custom operator's own name. inputs and outputs: tensor
    indices, -1 for an optional one that is left out. macs: multiply-adds of one frame, an estimate.
    weight_bytes: bytes of the buffers that it reads, through constant operators too. Both count each called
    subgraph once: how often a WHILE runs its body is known only while it runs.
    subgraphs: those that it calls, directly and through others, sorted. handle: what it makes a handle of
    (VAR_HANDLE, HASHTABLE), in words. state_read, state_written: the variables and tables that it reads and writes,
    sorted. repeatable: it makes the same of the same inputs, whenever it runs. recomputed: it runs in each slice
    that reads what it makes.
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
    subgraphs: tuple[int, ...] = ()
    handle: str = ""
    state_read: tuple[str, ...] = ()
    state_written: tuple[str, ...] = ()
    repeatable: bool = True
    recomputed: bool = False

    @property
    def touches(self) -> frozenset[str]:
        """The variables and tables that it uses."""
        return frozenset((*self.state_read, *self.state_written))

    @property
    def initialises(self) -> bool:
        """Whether it runs before the first frame only (CALL_ONCE): it goes with the variables that it writes."""
        return self.name == "CALL_ONCE"


@dataclass(frozen=True)
class Subgraph:
    """A subgraph that operators call; its tensors and operators have indices of their own."""

    index: int
    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def only_writes(self) -> bool:
        """Whether it uses no variable but to write it, so that what writes others can be left out."""
        return all(
            op.name in STATE_WRITERS or not (op.state_read or op.state_written or op.subgraphs)
            for op in self.operators
        )


@dataclass(frozen=True)
class Variable:
    """State that is kept from frame to frame, in words (`variable 'stream/states'`), and the steps that use it."""

    name: str
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """A signature of the model: its own names of the inputs and outputs, by tensor index."""

    key: str
    inputs: Mapping[int, str]
    outputs: Mapping[int, str]


@dataclass(frozen=True)
class Graph:
    """A model's dataflow: tensors and operators by their index in the file. `size` is the file's, in bytes.

    prepared: tensors (no constants) that a runtime computes before the first frame, such as shapes. dynamic:
    whether some shapes are known only while the model runs; undelegated: the first subgraph of the file from which
    on that matters (`converters.dynamic`). values: tensors that an operator of the file makes and that slices hold
    as constants (`converters.folding`), little-endian.
    order: all operators as they can run; empty for the file's order. subgraphs: those that some operator calls.
    variables: the state that is kept between frames. metadata: names and bytes of what the file has besides.
    integers_below: random inputs of 32 and 64 bits, mostly indices or counts, lie below it.
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
    order: tuple[int, ...] = ()
    subgraphs: Mapping[int, Subgraph] = field(default_factory=dict)
    undelegated: int = 1 << 31
    variables: tuple[Variable, ...] = ()
    signatures: tuple[Signature, ...] = ()
    metadata: tuple[tuple[str, int], ...] = ()
    integers_below: int = 100

    @property
    def stateful(self) -> bool:
        """Whether some step keeps state from one frame to the next."""
        return bool(self.variables)

    @cached_property
    def is_sorted(self) -> bool:
        """Whether the file's operators come in an order in which a runtime can run them."""
        made_late = {
            t: op.index for op in self.operators for t in op.outputs if t >= 0 and not self.tensors[t].variable
        }
        return all(made_late.get(t, -1) < op.index for op in self.operators for t in op.inputs)

    @cached_property
    def table_bytes(self) -> int:
        """Bytes of the file besides the weights."""
        tables = [self.tensors, *(subgraph.tensors for subgraph in self.subgraphs.values())]
        weights = sum({t.buffer: t.weight_bytes for table in tables for t in table}.values())
        return max(self.size - weights, 0)

    @cached_property
    def stateful_steps(self) -> frozenset[int]:
        """The steps that use a variable: the slices that have one of them keep state."""
        return frozenset(step for variable in self.variables for step in variable.steps)

    @cached_property
    def together(self) -> tuple[tuple[int, ...], ...]:
        """Sets of two or more steps that must share one slice, sorted: all users of one variable, or of variables
        that have a step in common.
        """
        root = {step: step for step in self.stateful_steps}

        def find(step: int) -> int:
            while root[step] != step:
                root[step] = root[root[step]]
                step = root[step]
            return step

        for variable in self.variables:
            for step in variable.steps:
                root[find(step)] = find(variable.steps[0])
        sets: dict[int, list[int]] = {}
        for step in sorted(root):
            sets.setdefault(find(step), []).append(step)
        return tuple(sorted(tuple(steps) for steps in sets.values() if len(steps) > 1))

    @cached_property
    def place(self) -> dict[int, int]:
        """Operator -> its place in the order in which the model runs."""
        return {index: place for place, index in enumerate(self.order or range(len(self.operators)))}

    @cached_property
    def _initialisers(self) -> dict[str, list[int]]:
        """Variable -> the CALL_ONCE operators of the model that give it its first value."""
        found: dict[str, list[int]] = {}
        for operator in self.operators:
            if operator.initialises:
                for variable in operator.touches:
                    found.setdefault(variable, []).append(operator.index)
        return found

    def held(self, operators: Iterable[int]) -> tuple[frozenset[str], frozenset[int]]:
        """(variables and tables that a slice of `operators` has, CALL_ONCE operators that it needs for them)."""
        rows = [self.operators[index] for index in operators]
        variables = {variable for row in rows if not row.initialises for variable in row.touches}
        todo = sorted(variables)
        found: set[int] = set()
        while todo:
            for index in self._initialisers.get(todo.pop(), ()):
                if index in found:
                    continue
                found.add(index)
                if not all(self.subgraphs[k].only_writes for k in self.operators[index].subgraphs):
                    more = self.operators[index].touches - variables
                    variables.update(more)
                    todo.extend(more)
        return frozenset(variables), frozenset(found)

    def closure(self, steps: Iterable[int], tensors: Sequence[int] = ()) -> tuple[int, ...]:
        """What a slice of `steps` that hands on `tensors` runs, in order: the steps, the constant and recomputed
        operators that feed them or make `tensors`, and the initialisation of the variables that they use.
        """
        steps = set(steps)
        reads = [t for step in steps for t in self.operators[step].inputs]
        found = steps | self.helpers([*reads, *tensors])
        return tuple(sorted(found | self.held(found)[1], key=self.place.__getitem__))

    def public_name(self, tensor: int) -> str:
        """The name that people know an input or output of the model by: the signature's, when the model has one
        signature, or several of which one is `serving_default`; else the tensor's own.
        """
        chosen = [s for s in self.signatures if len(self.signatures) == 1 or s.key == "serving_default"]
        for names in (side for one in chosen[:1] for side in (one.inputs, one.outputs)):
            if tensor in names:
                return names[tensor]
        return self.tensors[tensor].name

    @cached_property
    def producer(self) -> dict[int, int]:
        """Tensor index -> index of the operator that makes it."""
        return {t: op.index for op in self.operators for t in op.outputs if t >= 0}

    @cached_property
    def reads(self) -> dict[int, tuple[int, ...]]:
        """Step -> the tensors that it reads, constants too; where a recomputed operator stands between, its."""
        found = {}
        for step in self.steps:
            todo = list(reversed(self.operators[step].inputs))
            reads: dict[int, None] = {}
            while todo:
                tensor = todo.pop()
                maker = self.producer.get(tensor)
                if maker is not None and self.operators[maker].recomputed:
                    todo.extend(reversed(self.operators[maker].inputs))
                elif tensor >= 0:
                    reads[tensor] = None
            found[step] = tuple(reads)
        return found

    @cached_property
    def consumers(self) -> dict[int, tuple[int, ...]]:
        """Tensor index -> the steps that read it (as `reads` says), in order."""
        found: dict[int, list[int]] = {}
        for step in self.steps:
            for tensor in self.reads[step]:
                found.setdefault(tensor, []).append(step)
        return {tensor: tuple(steps) for tensor, steps in found.items()}

    @cached_property
    def readers(self) -> dict[int, tuple[int, ...]]:
        """Tensor index -> the operators of the file that read it, dead ones and helpers too."""
        found: dict[int, list[int]] = {}
        for operator in self.operators:
            for tensor in dict.fromkeys(operator.inputs):
                found.setdefault(tensor, []).append(operator.index)
        return {tensor: tuple(indices) for tensor, indices in found.items()}

    def constant_operators(self, tensors: Sequence[int]) -> set[int]:
        """The constant operators that make the constants among `tensors`, and those that feed them."""
        return {index for index in self.helpers(tensors) if self.operators[index].constant}

    def helpers(self, tensors: Sequence[int]) -> set[int]:
        """The constant and recomputed operators that make some of `tensors`, and those of them that feed these."""
        found: set[int] = set()
        todo = [t for t in tensors if t >= 0]
        while todo:
            maker = self.producer.get(todo.pop())
            if maker is None or maker in found:
                continue
            operator = self.operators[maker]
            if operator.constant or operator.recomputed:
                found.add(maker)
                todo.extend(t for t in operator.inputs if t >= 0)
        return found

    def crossing(self, position: int) -> tuple[int, ...]:
        """The tensors made by `steps[:position]` that `steps[position:]` read, sorted."""
        return self.crossings[position]

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """(tensor, first, last position that it crosses) of each tensor that a later step reads."""
        place = {step: i for i, step in enumerate(self.steps)}
        last = {t: place[steps[-1]] for t, steps in self.consumers.items()}
        outputs = ((i, t) for i, step in enumerate(self.steps) for t in self.operators[step].outputs)
        return tuple((t, i + 1, last[t]) for i, t in outputs if last.get(t, -1) > i)

    @cached_property
    def crossings(self) -> Crossings:
        """`crossing` of each position from 0 to len(steps)."""
        return Crossings(len(self.steps) + 1, self.spans)

    @cached_property
    def crossing_bytes(self) -> tuple[int, ...]:
        """Bytes of the tensors that cross each position from 0 to len(steps)."""
        spans = ((self.tensors[t].nbytes, first, last) for t, first, last in self.spans)
        return summed(len(self.steps) + 1, spans)


def operator_class(name: str) -> str:
    """The class whose speed nodes measure: `conv`, `depthwise`, `dense` or `elementwise` (all the rest)."""
    return _CLASSES.get(name, "elementwise")


def dtype_bytes(dtype: str) -> float:
    """Bytes per element of `dtype` as `Tensor.dtype` names it; 0 when it has no fixed size."""
    return next((size for name, size in DTYPES.values() if name == dtype), 0)
