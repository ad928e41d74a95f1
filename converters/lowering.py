"""The lowest version of an operator that means the same, so that older runtimes take the slice too (pure).

A file gives each kind of operator one version: the highest that one of them needs, and converters raise it freely.
A runtime refuses a version that is newer than itself, though a lower one would say the same: a version only
names the types, shapes and options that it allows. The rules follow `GetBuiltinOperatorVersion` in
tflite/tools/versioning/op_version.cc of google-ai-edge/LiteRT (tensorflow/lite/... in TensorFlow), with
one difference: what they do not name exactly is left as it is. A version is never raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from converters import schema
from converters.dataflow import DTYPES


@dataclass(frozen=True)
class Operand:
    """A tensor as the rules see it: dtype by `dataflow.DTYPES`, empty for an optional one that is left out.

    shape: () when it is a scalar or not known. scales: how many scales its quantisation has, scale: the first.
    quantized: whether it has a quantisation table. sparse: stored in a sparse format.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    scales: int = 0
    scale: float = 0.0
    quantized: bool = False
    sparse: bool = False


@dataclass(frozen=True)
class _Call:
    """One operator: its option fields by the schema's names, its inputs and outputs."""

    options: Mapping[str, Any]
    inputs: Sequence[Operand]
    outputs: Sequence[Operand]

    def dtype(self, position: int) -> str:
        return self.inputs[position].dtype if position < len(self.inputs) else ""

    @property
    def made(self) -> str:
        return self.outputs[0].dtype if self.outputs else ""

    @property
    def signature(self) -> tuple[str, str, str]:
        """Types of the first two inputs and the first output."""
        return self.dtype(0), self.dtype(1), self.made

    def option(self, name: str) -> Any:
        """The value of an option; None or its zero when it is not set."""
        return self.options.get(name)

    def rank(self, position: int = 0) -> int:
        """The number of dimensions; 0 when it is not known."""
        return len(self.inputs[position].shape) if position < len(self.inputs) else 0


# More than any rule asks for; a damaged file may list millions.
_OPERANDS, _DIMENSIONS = 8, 9
Rule = Callable[[_Call], "int | None"]
_FLOAT, _HYBRID = ("float32", "float32", "float32"), ("float32", "int8", "float32")
_UINT8, _INT8, _INT4 = ("uint8", "uint8", "uint8"), ("int8", "int8", "int8"), ("int8", "int4", "int8")


def _types(position: int, *levels: str) -> Rule:
    """The version by the type of one input: `levels` lists the types of version 1, 2 ..., separated by blanks."""
    versions = {dtype: version for version, level in enumerate(levels, 1) for dtype in level.split()}
    return lambda call: versions.get(call.dtype(position))


_WHOLE = "int32 int64"
_BASIC = f"float32 uint8 {_WHOLE}"


def _conv(call: _Call) -> int | None:
    if len(call.inputs) < 2 or call.rank(0) != 4 or call.rank(1) != 4:
        return None
    data, weights = call.inputs[:2]
    if data.shape[3] < 1 or call.option("quantizedBiasType"):
        return None
    # One filter and one scale: not per channel in truth, but the rules take it for that.
    per_channel = weights.scales > 1 or weights.shape[0] == 1
    found = {_FLOAT: 1, _UINT8: 1, _HYBRID: 5 if per_channel else 2, _INT8: 3, _INT4: 7}
    version = found.get(call.signature)
    grouped = data.shape[3] != weights.shape[3]
    return max(6, version) if grouped and version is not None else version


def _depthwise(call: _Call) -> int | None:
    if len(call.inputs) < 2 or call.rank(1) != 4:
        return None
    weights = call.inputs[1]
    dilated = (call.option("dilationWFactor") or 1, call.option("dilationHFactor") or 1) != (1, 1)
    per_channel = weights.scales > 1 or weights.shape[3] == 1
    plain = 2 if dilated else 1
    found = {_FLOAT: plain, _UINT8: plain, _HYBRID: 6 if per_channel else 4, _INT8: 3, _INT4: 7}
    return found.get(call.signature)


def _fully_connected(call: _Call) -> int | None:
    if len(call.inputs) < 2 or call.option("quantizedBiasType") or call.option("quantSpec") is not None:
        return None
    weights = call.inputs[1]
    if call.signature not in (_FLOAT, _UINT8, _HYBRID, _INT8, _INT4):
        return None
    if call.signature == _HYBRID and weights.scales > 1:
        return 12
    if weights.sparse:
        return 8
    if call.signature == _INT4:
        return 10
    if call.signature == _HYBRID and call.option("asymmetricQuantizeInputs"):
        return 9
    if len(call.inputs) == 2:
        return 6
    if call.option("keepNumDims"):
        return 5
    if call.signature == _INT8:
        return 4
    return 3 if call.signature == _HYBRID else 2 if call.option("weightsFormat") else 1


def _transpose_conv(call: _Call) -> int | None:
    if len(call.inputs) < 3 or call.option("quantizedBiasType"):
        return None
    # Its inputs: the output's shape, the weights, the data, the bias.
    if (call.dtype(1), call.dtype(2)) not in (("float32", "float32"), ("uint8", "uint8"), ("int8", "int8")):
        return None
    if call.option("fusedActivationFunction"):
        return 4
    return 3 if call.dtype(3) else 2 if call.dtype(1) == "int8" else 1


def _mul(call: _Call) -> int | None:
    first, second = call.dtype(0), call.dtype(1)
    if first != second:
        return None
    if first in ("int16", "uint32"):
        return None if first == "int16" and call.inputs[0].quantized else 7
    special = {"complex64": 6, "int64": 5}
    if first in special:
        return special[first]
    if first not in ("float32", "uint8", "int32", "int8"):
        return None
    scales = [operand.scale for operand in (*call.inputs[:2], *call.outputs[:1]) if operand.scales]
    if len(scales) == 3 and all(scales) and scales[0] * scales[1] / scales[2] >= 1.0:
        return 3
    return 2 if first == "int8" else 1


def _add(call: _Call) -> int | None:
    if call.dtype(0) == "int16":
        if not call.inputs[0].quantized:
            return 5
        return 3 if call.made == "int16" and call.option("potScaleInt16") is False else None
    return {"float32": 1, "uint8": 1, "int32": 1, "int8": 2, "int64": 4}.get(call.dtype(0))


def _wide(call: _Call) -> bool | None:
    """Whether inputs of more than four dimensions are broadcast; None when a shape is not known."""
    if len(call.inputs) < 2 or not call.rank(0) or not call.rank(1):
        return None
    return call.inputs[0].shape != call.inputs[1].shape and max(call.rank(0), call.rank(1)) > 4


def _broadcast(wide: int, otherwise: Mapping[str, int]) -> Rule:
    def rule(call: _Call) -> int | None:
        found, is_wide = otherwise.get(call.dtype(0)), _wide(call)
        if found is None or is_wide is None:
            return None
        return max(wide, found) if is_wide else found

    return rule


def _sub(call: _Call) -> int | None:
    if call.dtype(0) == "int16":
        return 5 if call.made == "int16" and call.option("potScaleInt16") is False else None
    if call.dtype(0) == "int64":
        return 4
    return _broadcast(3, {"float32": 1, "uint8": 1, "int32": 1, "int8": 2})(call)


def _ranked(most: int, above: int, by_type: Rule) -> Rule:
    """`above` for more than `most` dimensions, else by type; nothing when the rank is not known."""

    def rule(call: _Call) -> int | None:
        version = by_type(call)
        if version is None or not call.rank():
            return None
        return max(above, version) if call.rank() > most else version

    return rule


def _transpose(call: _Call) -> int | None:
    if call.rank() > 5:
        return 6 if _types(0, _BASIC, "int8", "bool")(call) else None
    return _ranked(4, 4, _types(0, _BASIC, "int8", "bool", "", "int16"))(call)


def _strided_slice(call: _Call) -> int | None:
    if call.dtype(0) == "uint32" and not call.option("offset"):
        return 7
    version = _types(0, f"{_BASIC} int16", "int8", "bool", "", "string")(call)
    if version is None or not call.rank():
        return None
    if call.option("offset"):
        return 8
    if call.option("ellipsisMask") or call.option("newAxisMask"):
        return 6
    return max(4, version) if call.rank() > 4 else version


def _resize(call: _Call) -> int | None:
    version = _types(0, "float32 uint8", "int8", "", "int16")(call)
    return max(3, version) if version and call.option("halfPixelCenters") else version


def _resize_nearest(call: _Call) -> int | None:
    version = _resize(call)
    return max(3, version) if version and call.option("alignCorners") else version


def _gather(call: _Call) -> int | None:
    if call.dtype(1) == "int16":
        return 6 if _types(0, f"{_BASIC} int8 int16 bool")(call) else None
    version = _types(0, _BASIC, "int8", "bool", "int16", "", "", "int4")(call)
    if call.dtype(1) not in ("int32", "int64") or version is None:
        return None
    return max(5, version) if call.option("batchDims") else version


def _gather_nd(call: _Call) -> int | None:
    version = _types(0, f"{_BASIC} int8", "string", "int16", "", "bool")(call)
    if call.dtype(1) == "int16" and version is not None:
        return max(4, version)
    return version if call.dtype(1) in ("int32", "int64") else None


def _dequantize(call: _Call) -> int | None:
    if call.dtype(0) == "int8":
        return 5 if call.inputs[0].scales > 1 else 2
    return _types(0, "uint8", "", "int16 float16", "", "", "int4")(call)


def _quantize(call: _Call) -> int | None:
    if call.dtype(0) not in ("float32", "int8", "uint8", "int16"):
        return None
    version = {"int8": 1, "uint8": 1, "int16": 2, "int4": 4}.get(call.made)
    if version is not None and call.outputs and call.outputs[0].scales > 1:
        return max(3, version)
    # Requantising from int16 came later than the rules tell.
    return None if version == 1 and call.dtype(0) == "int16" else version


def _batch_matmul(call: _Call) -> int | None:
    if call.signature == _HYBRID:
        return 4 if call.option("asymmetricQuantizeInputs") else 1
    found = {("float32", "float32"): 1, ("int8", "int8"): 2, ("int16", "int16"): 3}
    return found.get((call.dtype(0), call.dtype(1)))


def _cast(call: _Call) -> int | None:
    levels = ("float32 int16 int32 int64 uint8 bool complex64", "uint32", "int8", "uint16", "float64 float16")
    versions = {dtype: version for version, level in enumerate(levels, 1) for dtype in level.split()}
    ends = versions.get(call.dtype(0)), versions.get(call.made)
    return None if None in ends else max(end for end in ends if end is not None)


def _select(call: _Call) -> int | None:
    if call.dtype(0) != "bool" or call.dtype(1) not in ("float32", "uint8", "int16", "int32", "int64", "bool"):
        return None
    ranks = [call.rank(position) for position in range(3)]
    return None if 0 in ranks or max(ranks) > 5 else 3 if 5 in ranks else 1


def _topk(call: _Call) -> int | None:
    if "int16" in (call.dtype(0), *(operand.dtype for operand in call.outputs)):
        return 3
    return _types(0, _BASIC, "int8")(call)


def _abs(call: _Call) -> int | None:
    if call.dtype(0) == "int16":
        return 3 if call.inputs[0].quantized else 4
    return _types(0, "float32", "int8 uint8", "", "", "int32")(call)


def _embedding_lookup(call: _Call) -> int | None:
    if call.dtype(1) == "int4":
        return 4
    return None if call.dtype(1) not in ("float32", "uint8", "int8") else 4 if call.inputs[1].scales > 1 else 1


def _dynamic_update_slice(call: _Call) -> int | None:
    version = _types(0, "float32 int8 int32 int64 bool", "", "float16", "int16")(call)
    return max(2, version) if version and call.dtype(2) == "int64" else version


_ACTIVATION = _types(0, "float32 uint8", "int8", "int16")
_REDUCTION = _types(0, _BASIC, "int8", "int16")
_COMPARED = _types(0, f"{_BASIC} bool", "int8", "string", "int16")
_EIGHT_BIT = _types(0, _BASIC, "int8")
_PAD = _ranked(4, 4, _types(0, _BASIC, "int8", "int16", "", "bool"))
_EXTREME = _broadcast(3, {"float32": 1, "uint8": 1, "int32": 1, "int64": 1, "int8": 2, "int16": 4})
_BATCHES = _types(0, _BASIC, "int8", "", "int16")


def _space_to_batch(call: _Call) -> int | None:
    version = _BATCHES(call)
    return None if version is None or not call.rank() else max(3, version) if call.rank() != 4 else version


# Operator -> (the highest version that the rules speak of, the rule). A higher one allows what no rule knows.
_RULES: dict[str, tuple[int, Rule]] = {
    "ABS": (5, _abs),
    "ADD": (5, _add),
    "ARG_MAX": (3, _types(0, "float32 uint8 int32", "int8", "bool")),
    "ARG_MIN": (3, _types(0, "float32 uint8 int32", "int8", "bool")),
    "AVERAGE_POOL_2D": (3, _ACTIVATION),
    "BATCH_MATMUL": (4, _batch_matmul),
    "BATCH_TO_SPACE_ND": (4, _space_to_batch),
    "BROADCAST_TO": (3, _types(0, "", f"{_BASIC} bool", "int8 int16")),
    "CAST": (5, _cast),
    "CONCATENATION": (4, _types(0, f"{_BASIC} bool", "int8", "int16", "uint32")),
    "CONV_2D": (8, _conv),
    "DEPTHWISE_CONV_2D": (7, _depthwise),
    "DEPTH_TO_SPACE": (2, _EIGHT_BIT),
    "DEQUANTIZE": (6, _dequantize),
    "DIV": (2, _broadcast(2, {"float32": 1, "uint8": 1, "int32": 1})),
    "DYNAMIC_UPDATE_SLICE": (4, _dynamic_update_slice),
    "EMBEDDING_LOOKUP": (4, _embedding_lookup),
    "EQUAL": (4, _COMPARED),
    "EXP": (2, _types(0, "float32", "int8 int16")),
    "FILL": (4, _types(1, f"float32 {_WHOLE}", "bool string", "int8 int16", "float16")),
    "FLOOR_DIV": (3, _types(0, "int32", "float32", "int16 int8")),
    "FLOOR_MOD": (2, _types(0, f"float32 {_WHOLE}", "int16 int8")),
    "FULLY_CONNECTED": (13, _fully_connected),
    "GATHER": (7, _gather),
    "GATHER_ND": (5, _gather_nd),
    "GELU": (2, _types(0, "float32", "int8 uint8")),
    "GREATER": (2, _EIGHT_BIT),
    "GREATER_EQUAL": (3, _REDUCTION),
    "L2_NORMALIZATION": (2, _types(0, "float32 uint8", "int8")),
    "LEAKY_RELU": (2, _types(0, "float32 uint8 int8", "int16")),
    "LESS": (3, _REDUCTION),
    "LESS_EQUAL": (2, _EIGHT_BIT),
    "LOG": (2, _types(0, "float32", "int8 int16")),
    "LOGISTIC": (3, _ACTIVATION),
    "LOG_SOFTMAX": (2, _types(0, "float32 uint8", "int8")),
    "MAXIMUM": (4, _EXTREME),
    "MAX_POOL_2D": (3, _ACTIVATION),
    "MEAN": (3, _REDUCTION),
    "MINIMUM": (4, _EXTREME),
    "MIRROR_PAD": (3, _REDUCTION),
    "MUL": (7, _mul),
    "NOT_EQUAL": (3, _types(0, f"{_BASIC} bool", "int8", "string")),
    "PACK": (4, _types(0, _BASIC, "int8", "int16", "uint32")),
    "PAD": (5, _PAD),
    "PADV2": (5, _PAD),
    "QUANTIZE": (4, _quantize),
    "RANGE": (2, _types(0, "float32 int32", "int64")),
    "REDUCE_MAX": (3, _REDUCTION),
    "REDUCE_MIN": (3, _REDUCTION),
    "REDUCE_PROD": (2, _types(0, f"float32 {_WHOLE}", "int8 int16")),
    "RELU": (3, _types(0, "float32", "int8 uint8", "int16")),
    "RELU6": (3, _ACTIVATION),
    "RESIZE_BILINEAR": (4, _resize),
    "RESIZE_NEAREST_NEIGHBOR": (4, _resize_nearest),
    "REVERSE_V2": (3, _types(0, f"{_BASIC} int16", "bool", "int8")),
    "RSQRT": (3, _types(0, "float32", "int8", "int16")),
    "SELECT": (4, _select),
    "SELECT_V2": (2, _types(1, f"{_BASIC} int8 int16 bool")),
    "SIGN": (2, _types(0, "float32", "int32")),
    "SLICE": (6, _ranked(4, 5, _types(0, f"{_BASIC} bool", "int8", "string", "int16", "", "uint32"))),
    "SOFTMAX": (3, _ACTIVATION),
    "SPACE_TO_BATCH_ND": (4, _space_to_batch),
    "SPACE_TO_DEPTH": (2, _EIGHT_BIT),
    "SPLIT": (4, _types(1, "float32 uint8", "int8", "int32", "int16")),
    "SPLIT_V": (2, _types(0, f"{_BASIC} int16", "int8")),
    "SQUARED_DIFFERENCE": (2, _types(0, "float32 int32", "int8")),
    "SQUEEZE": (2, _types(0, f"{_BASIC} int8 int16 bool", "string")),
    "STRIDED_SLICE": (8, _strided_slice),
    "SUB": (5, _sub),
    "SUM": (2, _types(0, f"float32 uint8 {_WHOLE}", "int8")),
    "TANH": (3, _ACTIVATION),
    "TILE": (3, _types(0, f"{_BASIC} bool", "string", "int8")),
    "TOPK_V2": (3, _topk),
    "TRANSPOSE": (7, _transpose),
    "TRANSPOSE_CONV": (5, _transpose_conv),
    "UNPACK": (4, _types(0, "float32 int32", "int8 uint8", "bool", "int16")),
    "WHERE": (2, _types(0, "bool", _BASIC)),
}


def lower(
    name: str, version: int, options: Mapping[str, Any], inputs: Sequence[Operand], outputs: Sequence[Operand]
) -> int:
    """The lowest version that means the same for this operator; `version` where no rule says it.

    `options` are the fields of its builtin options by the schema's names (`keepNumDims`).
    """
    known, rule = _RULES.get(name, (0, None))
    if rule is None or version > known:
        return version
    found = rule(_Call(options, inputs, outputs))
    return version if found is None else min(version, found)


def lowest_version(model: Any, subgraph: Any, operator: Any) -> int:
    """`lower` for tables of the schema (Model, SubGraph, Operator), which a sound file's indices hold together."""
    code = model.OperatorCodes(operator.OpcodeIndex())
    version = int(code.Version())
    name = _names().get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "")
    if version <= 1 or version > _RULES.get(name, (0, None))[0]:
        return version
    options = schema.classes().BuiltinOptionsCreator(operator.BuiltinOptionsType(), operator.BuiltinOptions())
    inputs = operator.InputsAsNumpy()[:_OPERANDS].tolist() if operator.InputsLength() else []
    outputs = operator.OutputsAsNumpy()[:_OPERANDS].tolist() if operator.OutputsLength() else []
    operands = ([_operand(subgraph, index) for index in side] for side in (inputs, outputs))
    return lower(name, version, vars(options) if options is not None else {}, *operands)


@cache
def _names() -> dict[int, str]:
    return {number: name for name, number in schema.builtin_operators().items()}


def _operand(subgraph: Any, index: int) -> Operand:
    if index < 0:
        return Operand()
    tensor = subgraph.Tensors(index)
    dtype = DTYPES.get(tensor.Type(), ("", 0))[0]
    shape = tuple(tensor.ShapeAsNumpy()[:_DIMENSIONS].tolist()) if tensor.ShapeLength() else ()
    sparse = tensor.Sparsity() is not None
    table = tensor.Quantization()
    if table is None:
        return Operand(dtype, shape, sparse=sparse)
    scales = table.ScaleLength()
    return Operand(dtype, shape, scales, float(table.Scale(0)) if scales else 0.0, True, sparse)
