"""Random sound models of many operators: what the random generator decides is all that varies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers  # type: ignore[import-untyped]
import numpy as np

from tests.converters.tiny import Tiny

_FLOATS = ("FLOAT32",)
_NUMBERS = ("FLOAT32", "INT32", "INT64")
_NUMPY = {"FLOAT32": np.float32, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_, "INT8": np.int8}
_SCALE = 0.05
_LARGEST = 256


@dataclass(frozen=True)
class Value:
    """A tensor of the model under construction."""

    index: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


class Grower:
    """A model that grows operator by operator out of the tensors that are there."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.tiny = Tiny()
        self.pool: list[Value] = []
        self.made: list[Value] = []
        self.read: set[int] = set()
        self.shared: dict[tuple[Any, ...], int] = {}
        self.numbers = np.random.default_rng(rng.randrange(1000))

    # What operators are made of.

    def input(self, shape: tuple[int, ...], dtype: str) -> Value:
        value = Value(self.tiny.input(shape, dtype), shape, dtype)
        if dtype == "INT8":
            self._quantise(value.index)
        self.pool.append(value)
        return value

    def pick(self, *dtypes: str, ranks: Sequence[int] = (), least: int = 0) -> Value | None:
        """A tensor of the pool: late ones and those that nothing reads more often, so that models grow deep."""
        fitting = [
            v
            for v in self.pool
            if (not dtypes or v.dtype in dtypes) and (not ranks or len(v.shape) in ranks) and v.size >= least
        ]
        if self.rng.random() < 0.6:
            fitting = [v for v in fitting if v.index not in self.read] or fitting
        return fitting[-1 - min(self.rng.randrange(5), len(fitting) - 1)] if fitting else None

    def like(self, value: Value) -> int:
        """Another operand for `value`, by index: a tensor of its shape, itself, or a constant that many share."""
        same = [v.index for v in self.pool if (v.shape, v.dtype) == (value.shape, value.dtype)]
        if self.rng.random() < 0.6 or value.dtype in ("BOOL", "INT8"):
            return self.rng.choice(same)
        return self.weights(value.shape if self.rng.random() < 0.5 else value.shape[-1:], value.dtype)

    def weights(self, shape: tuple[int, ...], dtype: str = "FLOAT32") -> int:
        """A constant; the same for the same shape most of the time, sometimes with a shared buffer."""
        key = (shape, dtype)
        if key in self.shared and self.rng.random() < 0.7:
            return self.shared[key]
        if dtype == "FLOAT32" and self.rng.random() < 0.25:
            half = self.tiny.constant((self.numbers.standard_normal(shape) / 2).astype(np.float16))
            made = self.tiny.op("DEQUANTIZE", [half], shape, options=schema.DequantizeOptionsT())
        elif key in self.shared and self.tiny.tensors[self.shared[key]].buffer:
            made = self.tiny.tensor(shape, dtype, buffer=self.tiny.tensors[self.shared[key]].buffer)
        else:
            array = (
                self.numbers.standard_normal(shape) / 2
                if dtype == "FLOAT32"
                else self.numbers.integers(1, 4, shape)
            )
            made = self.tiny.constant(array.astype(_NUMPY[dtype]))
        self.shared[key] = made
        return made

    def fixed(self, array: Any, dtype: Any = np.int32) -> int:
        """A small constant such as an axis or a shape, the same tensor each time."""
        array = np.array(array, dtype)
        key = (array.tobytes(), array.shape, str(dtype))
        if key not in self.shared:
            self.shared[key] = self.tiny.constant(array)
        return self.shared[key]

    def add(
        self, name: str, inputs: Sequence[int], shape: Sequence[int], dtype: str = "FLOAT32", options: Any = None
    ) -> Value:
        return self.add_many(name, inputs, [tuple(shape)], dtype, options)[0]

    def add_many(
        self, name: str, inputs: Sequence[int], shapes: Sequence[tuple[int, ...]], dtype: str, options: Any = None
    ) -> list[Value]:
        values = [Value(self.tiny.tensor(shape, dtype), tuple(shape), dtype) for shape in shapes]
        if dtype == "INT8":
            for value in values:
                self._quantise(value.index)
        self.tiny.op(name, inputs, outputs=[value.index for value in values], options=options)
        self.read.update(inputs)
        self.pool += values
        self.made += values
        return values

    def _quantise(self, index: int, scale: float = _SCALE) -> None:
        self.tiny.tensors[index].quantization = schema.QuantizationParametersT(
            scale=np.array([scale], np.float32), zeroPoint=np.array([0], np.int64)
        )

    # The operators. Each takes what fits out of the pool, and does nothing when nothing does.

    def binary(self) -> None:
        value = self.pick(*_NUMBERS)
        if value is not None:
            name, options = self.rng.choice(
                [
                    ("ADD", schema.AddOptionsT()),
                    ("SUB", schema.SubOptionsT()),
                    ("MUL", schema.MulOptionsT()),
                    ("MAXIMUM", schema.MaximumMinimumOptionsT()),
                    ("MINIMUM", schema.MaximumMinimumOptionsT()),
                ]
            )
            self.add(name, [value.index, self.like(value)], value.shape, value.dtype, options)

    def unary(self) -> None:
        value = self.pick(*_FLOATS)
        if value is not None:
            name = self.rng.choice(
                ["RELU", "RELU6", "TANH", "LOGISTIC", "ABS", "NEG", "FLOOR", "HARD_SWISH", "SIN"]
            )
            self.add(name, [value.index], value.shape)

    def dense(self) -> None:
        value = self.pick(*_FLOATS, ranks=(2,))
        if value is not None:
            units = self.rng.choice((2, 4, 8))
            bias = self.rng.choice((-1, self.weights((units,))))
            inputs = [value.index, self.weights((units, value.shape[1])), bias]
            self.add("FULLY_CONNECTED", inputs, (value.shape[0], units), options=schema.FullyConnectedOptionsT())

    def conv(self) -> None:
        value = self.pick(*_FLOATS, ranks=(4,))
        if value is not None:
            channels = value.shape[3]
            if self.rng.random() < 0.5:
                inputs = [
                    value.index,
                    self.weights((3, 2, 2, channels)),
                    self.weights((3,)),
                ]
                options = schema.Conv2DOptionsT(strideW=1, strideH=1, dilationWFactor=1, dilationHFactor=1)
                self.add("CONV_2D", inputs, (*value.shape[:3], 3), options=options)
            else:
                inputs = [
                    value.index,
                    self.weights((1, 2, 2, channels)),
                    self.weights((channels,)),
                ]
                depth = schema.DepthwiseConv2DOptionsT(
                    strideW=1, strideH=1, depthMultiplier=1, dilationWFactor=1, dilationHFactor=1
                )
                self.add("DEPTHWISE_CONV_2D", inputs, value.shape, options=depth)

    def image(self) -> None:
        value = self.pick(*_FLOATS, ranks=(4,))
        if value is None:
            return
        n, h, w, c = value.shape
        if self.rng.random() < 0.5 and 4 * value.size <= _LARGEST:
            self.add(
                "RESIZE_NEAREST_NEIGHBOR",
                [value.index, self.fixed([2 * h, 2 * w])],
                (n, 2 * h, 2 * w, c),
                options=schema.ResizeNearestNeighborOptionsT(),
            )
        elif h % 2 == w % 2 == 0:
            options = schema.Pool2DOptionsT(strideW=2, strideH=2, filterWidth=2, filterHeight=2)
            name = self.rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"])
            self.add(name, [value.index], (n, h // 2, w // 2, c), options=options)

    def concatenate(self) -> None:
        value = self.pick(*_NUMBERS, "INT8", "BOOL")
        if value is not None and 2 * value.size <= _LARGEST and value.shape:
            other = self.rng.choice(
                [v.index for v in self.pool if (v.shape, v.dtype) == (value.shape, value.dtype)]
            )
            axis = self.rng.randrange(len(value.shape))
            shape = list(value.shape)
            shape[axis] *= 2
            options = schema.ConcatenationOptionsT(axis=axis)
            self.add("CONCATENATION", [value.index, other], shape, value.dtype, options)

    def split(self) -> None:
        value = self.pick("FLOAT32", "INT32", "INT8")
        axes = [] if value is None else [axis for axis, size in enumerate(value.shape) if size % 2 == 0]
        if value is not None and axes:
            axis = self.rng.choice(axes)
            shape = list(value.shape)
            shape[axis] //= 2
            options = schema.SplitOptionsT(numSplits=2)
            self.add_many("SPLIT", [self.fixed(axis), value.index], [tuple(shape)] * 2, value.dtype, options)

    def unpack(self) -> None:
        value = self.pick("FLOAT32", "INT32", ranks=(2, 3))
        if value is not None and value.shape[0] <= 4:
            rest = value.shape[1:]
            options = schema.UnpackOptionsT(num=value.shape[0], axis=0)
            rows = self.add_many("UNPACK", [value.index], [rest] * value.shape[0], value.dtype, options)
            if self.rng.random() < 0.7:
                picked = [self.rng.choice(rows).index for _ in range(2)]
                again = schema.PackOptionsT(valuesCount=2, axis=0)
                self.add("PACK", picked, (2, *rest), value.dtype, again)

    def reshape(self) -> None:
        value = self.pick(*_NUMBERS, "INT8", "BOOL", least=2)
        if value is not None:
            shape = self.rng.choice(_shapes(value.size))
            inputs = [value.index, self.fixed(list(shape))]
            self.add(
                "RESHAPE", inputs, shape, value.dtype, schema.ReshapeOptionsT(newShape=np.array(shape, np.int32))
            )

    def computed_reshape(self) -> None:
        """To [first dimension, -1], where the first dimension is asked for while the model runs."""
        value = self.pick(*_NUMBERS, least=2)
        if value is None or not value.shape:
            return
        rank = (len(value.shape),)
        shape = self.tiny.op("SHAPE", [value.index], rank, options=schema.ShapeOptionsT(outType=2), dtype="INT32")
        bounds = [self.fixed([0]), self.fixed([1]), self.fixed([1])]
        cut = schema.StridedSliceOptionsT(shrinkAxisMask=1)
        first = self.tiny.op("STRIDED_SLICE", [shape, *bounds], (), options=cut, dtype="INT32")
        pack = schema.PackOptionsT(valuesCount=2, axis=0)
        target = self.tiny.op("PACK", [first, self.fixed(-1)], (2,), options=pack, dtype="INT32")
        made = (value.shape[0], value.size // value.shape[0])
        self.add("RESHAPE", [value.index, target], made, value.dtype, schema.ReshapeOptionsT())

    def cast(self) -> None:
        value = self.pick("FLOAT32", "INT32", "INT64", "BOOL")
        if value is not None:
            target = self.rng.choice([d for d in ("FLOAT32", "INT32", "INT64") if d != value.dtype])
            options = schema.CastOptionsT(
                inDataType=getattr(schema.TensorType, value.dtype), outDataType=getattr(schema.TensorType, target)
            )
            self.add("CAST", [value.index], value.shape, target, options)

    def quantize(self) -> None:
        value = self.pick(*_FLOATS)
        if value is not None:
            self.add("QUANTIZE", [value.index], value.shape, "INT8", schema.QuantizeOptionsT())

    def dequantize(self) -> None:
        value = self.pick("INT8")
        if value is not None:
            self.add("DEQUANTIZE", [value.index], value.shape, options=schema.DequantizeOptionsT())

    def quantized(self) -> None:
        value = self.pick("INT8")
        if value is None:
            return
        if len(value.shape) == 2 and self.rng.random() < 0.5:
            units = self.rng.choice((2, 4))
            weights = self.tiny.constant(self.numbers.integers(-127, 128, (units, value.shape[1])).astype(np.int8))
            self._quantise(weights, 0.01)
            bias = self.tiny.constant(self.numbers.integers(-100, 100, (units,)).astype(np.int32))
            self._quantise(bias, float(np.float32(0.01) * np.float32(_SCALE)))
            inputs = [value.index, weights, self.rng.choice((-1, bias))]
            options = schema.FullyConnectedOptionsT()
            self.add("FULLY_CONNECTED", inputs, (value.shape[0], units), "INT8", options)
        else:
            self.add("ADD", [value.index, self.like(value)], value.shape, "INT8", schema.AddOptionsT())

    def transpose(self) -> None:
        value = self.pick(*_FLOATS, "INT32", ranks=(2, 3, 4))
        if value is not None:
            order = list(range(len(value.shape)))
            self.rng.shuffle(order)
            shape = [value.shape[axis] for axis in order]
            self.add("TRANSPOSE", [value.index, self.fixed(order)], shape, value.dtype, schema.TransposeOptionsT())

    def pad(self) -> None:
        value = self.pick(*_FLOATS, "INT32", ranks=(2, 4))
        if value is not None and 2 * value.size <= _LARGEST:
            widths = [[0, 0] for _ in value.shape]
            widths[-1] = [1, self.rng.randrange(2)]
            shape = (*value.shape[:-1], value.shape[-1] + sum(widths[-1]))
            self.add("PAD", [value.index, self.fixed(widths)], shape, value.dtype, schema.PadOptionsT())

    def reduce(self) -> None:
        value = self.pick(*_FLOATS, ranks=(2, 3, 4))
        if value is not None:
            name = self.rng.choice(["MEAN", "SUM", "REDUCE_MAX"])
            axis = self.rng.randrange(1, len(value.shape))
            shape = tuple(1 if i == axis else size for i, size in enumerate(value.shape))
            options = schema.ReducerOptionsT(keepDims=True)
            self.add(name, [value.index, self.fixed([axis])], shape, value.dtype, options)

    def softmax(self) -> None:
        value = self.pick(*_FLOATS, ranks=(2,))
        if value is not None:
            self.add("SOFTMAX", [value.index], value.shape, options=schema.SoftmaxOptionsT(beta=1.0))

    def compare(self) -> None:
        value = self.pick(*_NUMBERS)
        if value is not None:
            name, options = self.rng.choice(
                [("GREATER", schema.GreaterOptionsT()), ("LESS", schema.LessOptionsT())]
            )
            self.add(name, [value.index, self.like(value)], value.shape, "BOOL", options)

    def logical(self) -> None:
        value = self.pick("BOOL")
        if value is not None:
            inputs = [value.index, self.like(value)]
            self.add("LOGICAL_AND", inputs, value.shape, "BOOL", schema.LogicalAndOptionsT())

    def select(self) -> None:
        mask = self.pick("BOOL")
        if mask is not None:
            fitting = [v for v in self.pool if v.shape == mask.shape and v.dtype in ("FLOAT32", "INT32")]
            if fitting:
                value = self.rng.choice(fitting)
                inputs = [mask.index, value.index, self.like(value)]
                self.add("SELECT_V2", inputs, value.shape, value.dtype, schema.SelectV2OptionsT())

    def gather(self) -> None:
        value = self.pick("FLOAT32", "INT32", "INT64", ranks=(2, 3, 4))
        if value is not None:
            axis = self.rng.randrange(len(value.shape))
            places = [self.rng.randrange(value.shape[axis]) for _ in range(2)]
            shape = (*value.shape[:axis], 2, *value.shape[axis + 1 :])
            if int(np.prod(shape)) <= _LARGEST:
                options = schema.GatherOptionsT(axis=axis)
                self.add("GATHER", [value.index, self.fixed(places)], shape, value.dtype, options)

    def arg_max(self) -> None:
        value = self.pick(*_FLOATS, ranks=(2, 3))
        if value is not None:
            dtype = self.rng.choice(("INT32", "INT64"))
            options = schema.ArgMaxOptionsT(outputType=getattr(schema.TensorType, dtype))
            self.add("ARG_MAX", [value.index, self.fixed(1)], (value.shape[0], *value.shape[2:]), dtype, options)

    def branch(self) -> None:
        """An IF whose condition follows from a tensor's largest element."""
        value, asked = self.pick(*_FLOATS), self.pick(*_FLOATS)
        if value is None or asked is None or not asked.shape:
            return
        axes = self.fixed(list(range(len(asked.shape))))
        largest = self.add("REDUCE_MAX", [asked.index, axes], (), options=schema.ReducerOptionsT())
        condition = self.add("GREATER", [largest.index, self.weights(())], (), "BOOL", schema.GreaterOptionsT())
        other = self.like(value)
        numbers = []
        for name, options in (("ADD", schema.AddOptionsT()), ("MUL", schema.MulOptionsT())):
            number, inner = self.tiny.subgraph(f"branch{len(self.tiny.called)}")
            fed = [inner.input(self.tiny.tensors[t].shape) for t in (value.index, other)]
            made = inner.op(name, fed, value.shape, options=options)
            inner.outputs = [inner.op("TANH", [made], value.shape)]
            numbers.append(number)
        chosen = schema.IfOptionsT(thenSubgraphIndex=numbers[0], elseSubgraphIndex=numbers[1])
        self.add("IF", [condition.index, value.index, other], value.shape, options=chosen)

    def loop(self) -> None:
        """A WHILE that goes a fixed number of times over a tensor."""
        value = self.pick(*_FLOATS)
        if value is None:
            return
        numbers = []
        for kind in ("condition", "body"):
            number, inner = self.tiny.subgraph(f"{kind}{len(self.tiny.called)}")
            count, x = inner.input((1,), "INT32"), inner.input(value.shape)
            if kind == "condition":
                last = inner.constant(np.array([self.rng.randrange(4)], np.int32))
                less = schema.LessOptionsT()
                inner.outputs = [inner.op("LESS", [count, last], (1,), options=less, dtype="BOOL")]
            else:
                one = inner.constant(np.array([1], np.int32))
                more = inner.op("ADD", [count, one], (1,), options=schema.AddOptionsT(), dtype="INT32")
                inner.outputs = [more, inner.op("TANH", [x], value.shape)]
            numbers.append(number)
        options = schema.WhileOptionsT(condSubgraphIndex=numbers[0], bodySubgraphIndex=numbers[1])
        made = [
            Value(self.tiny.tensor((1,), "INT32"), (1,), "INT32"),
            Value(self.tiny.tensor(value.shape), value.shape, "FLOAT32"),
        ]
        self.tiny.op("WHILE", [self.fixed([0]), value.index], outputs=[v.index for v in made], options=options)
        self.read.add(value.index)
        self.pool += made
        self.made += made

    def variable(self) -> None:
        """A variable that takes up a tensor in each frame, and what it held before."""
        value = self.pick(*_FLOATS, ranks=(2, 4))
        if value is None:
            return
        name = f"state{len(self.tiny.called)}"
        number, first = self.tiny.subgraph(f"initialise {name}")
        start = first.constant(self.numbers.standard_normal(value.shape).astype(np.float32))
        first.assign(first.handle(name), start)
        self.tiny.call_once(number)
        handle = self.tiny.handle(name)
        held = Value(self.tiny.read(handle, value.shape), value.shape, "FLOAT32")
        self.pool.append(held)
        self.made.append(held)
        self.grow(self.rng.randrange(3))
        added = self.add("ADD", [held.index, value.index], value.shape, options=schema.AddOptionsT())
        self.tiny.assign(handle, self.add("TANH", [added.index], value.shape).index)

    def grow(self, steps: int, kinds: Sequence[Callable[[Grower], None]] = ()) -> None:
        """Add `steps` operators, or a few more where one kind needs several."""
        for _ in range(steps):
            self.rng.choice(kinds or _KINDS)(self)


_KINDS: tuple[Callable[[Grower], None], ...] = (
    Grower.binary,
    Grower.binary,
    Grower.unary,
    Grower.dense,
    Grower.dense,
    Grower.conv,
    Grower.conv,
    Grower.image,
    Grower.concatenate,
    Grower.split,
    Grower.unpack,
    Grower.reshape,
    Grower.computed_reshape,
    Grower.cast,
    Grower.quantize,
    Grower.dequantize,
    Grower.quantized,
    Grower.transpose,
    Grower.pad,
    Grower.reduce,
    Grower.softmax,
    Grower.compare,
    Grower.logical,
    Grower.select,
    Grower.gather,
    Grower.arg_max,
)
_CALLING: tuple[Callable[[Grower], None], ...] = (Grower.branch, Grower.loop)
_INPUTS: tuple[tuple[tuple[int, ...], str], ...] = (
    ((1, 4), "FLOAT32"),
    ((1, 4), "FLOAT32"),
    ((1, 4, 4, 2), "FLOAT32"),
    ((2, 3), "FLOAT32"),
    ((1, 4), "INT8"),
    ((1, 4), "INT32"),
    ((2,), "INT64"),
    ((1, 4), "BOOL"),
)


def _shapes(size: int) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(1, size), (size,)]
    if size % 2 == 0:
        shapes.append((2, size // 2))
    if size % 4 == 0:
        shapes += [(1, 2, 2, size // 4), (1, 2, size // 2)]
    return shapes


def random_model(rng: random.Random, most_steps: int = 24, *, calls: bool = False, state: bool = False) -> bytes:
    """A model of about `most_steps` operators: branches, joins, several inputs and outputs, shared constants,
    optional inputs, dead operators, unused inputs, inputs that are outputs.

    calls: with subgraphs that IF and WHILE call. state: with variables that are kept from frame to frame.
    """
    grower = Grower(rng)
    kinds = (*_KINDS, *(3 * _CALLING if calls else ()), *(3 * (Grower.variable,) if state else ()))
    for _ in range(rng.randrange(1, 4)):
        grower.input(*rng.choice(_INPUTS))
    grower.grow(rng.randrange(2, most_steps), kinds)
    if not grower.made:
        grower.add("RELU", [grower.input((1, 4), "FLOAT32").index], (1, 4))
    made = [value.index for value in grower.made]
    ends = [index for index in made if index not in grower.read] or made
    outputs = [made[-1], *(rng.choice(rng.choice((ends, ends, made))) for _ in range(rng.randrange(5)))]
    if rng.random() < 0.1:
        outputs.append(rng.choice(grower.tiny.inputs))
    if rng.random() < 0.7:
        outputs = list(dict.fromkeys(outputs))
    return grower.tiny.build(outputs)


def shuffled(content: bytes, rng: random.Random) -> bytes:
    """The same model with its operators in another order, in which it need not be able to run."""
    tree = schema.ModelT.InitFromPackedBuf(content, 0)
    rng.shuffle(tree.subgraphs[0].operators)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())
