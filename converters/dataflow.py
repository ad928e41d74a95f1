"""A model's dataflow as dataclasses: tensors, operators, and what crosses between them (pure).

Words: an operator is *constant* when it is fed by constants only (a DEQUANTIZE of float16 weights, a DENSIFY); it
goes with each slice that uses what it makes. An operator is *dead* when no output of the model depends on it; no
slice has it. All others are the *steps*, in the file's order, which is the order in which TFLite runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

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
    return next((size for name, size in DTYPES.values() if name == dtype), 0)
