"""Which operators a TFLite runtime takes: asked of the runtime itself, by loading tiny models (PURE).

A runtime resolves the operator codes of a model while it loads it, before it allocates anything. So a
model of one operator code, without tensors and operators, tells whether it takes that builtin in that version;
about 0.1 ms each on a desktop. Nodes have no schema classes, hence the bytes are laid out here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from slicemq.errors import ModelError, UnsupportedOperatorError

# By number, from BuiltinOperator in the schema (tensorflow/compiler/mlir/lite/schema/schema.fbs).
_NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP
FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC
LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX
SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD
UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX
DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER
GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL
LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND
LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N
GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF
WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS
HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL
GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE
STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE
STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE
STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG
STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT
STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL
STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE
STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT
STABLEHLO_CASE
"""
BUILTINS: tuple[str, ...] = tuple(_NAMES.split())
# Custom operators that a runtime's own resolver may hold (tensorflow/lite/core/kernels/register.cc).
CUSTOM = ("AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess")
_CUSTOM_CODE = BUILTINS.index("CUSTOM")
# Never resolved like others: what stands for custom operators, delegates and a number without an operator.
_PLACEHOLDERS = frozenset({"CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"})
# BROADCAST_TO begins at version 2; the others at 1, and none has a gap after its first.
_FIRST_VERSIONS = 2
# A runtime that takes everything would be asked for ever.
_MAX_VERSION = 100
# FlexBuffers' empty map: custom operators read their options from one.
_NO_OPTIONS = bytes.fromhex("00000100002401")


def known_operators(load: Callable[[bytes], object]) -> dict[str, int]:
    """Operator name -> the highest version that `load` takes; custom operators count as version 1.

    `load` opens an interpreter on a model's bytes: it raises UnsupportedOperatorError for an operator that
    the runtime lacks, ModelError for anything else. Empty when not one operator could be asked for.
    """
    custom = {name: 1 for name in CUSTOM if _takes_custom(load, name)}
    numbers = [number for number, name in enumerate(BUILTINS) if name not in _PLACEHOLDERS]
    builtin = {BUILTINS[number]: _highest_version(load, number) for number in numbers}
    found = {name: version for name, version in builtin.items() if version}
    return {**found, **custom} if found else {}


def _highest_version(load: Callable[[bytes], object], number: int) -> int:
    highest = 0
    for version in range(1, _MAX_VERSION + 1):
        try:
            load(builtin_model(number, version))
        except ModelError:
            if highest or version >= _FIRST_VERSIONS:
                break
        else:
            highest = version
    return highest


def _takes_custom(load: Callable[[bytes], object], name: str) -> bool:
    try:
        load(custom_model(name))
    except UnsupportedOperatorError:
        return False
    except ModelError:
        # It knows the operator, which then misses its inputs.
        pass
    return True


def builtin_model(number: int, version: int) -> bytes:
    """A model of no tensors and no operators, with one operator code."""
    made = _Bytes()
    # The older field holds a signed byte; numbers behind it are in the newer field alone.
    code = made.table([("i", min(number, 127)), None, ("i", version), ("i", number)])
    return _model(made, code, operator=None)


def custom_model(name: str) -> bytes:
    """A model of one custom operator without inputs and outputs; what is unknown shows only when it is prepared."""
    made = _Bytes()
    text = made.vector(name.encode() + b"\0", len(name))
    code = made.table([("i", _CUSTOM_CODE), ("ref", text), ("i", 1), ("i", _CUSTOM_CODE)])
    options, none = made.vector(_NO_OPTIONS, len(_NO_OPTIONS)), made.vector(b"", 0)
    operator = made.table([("i", 0), ("ref", none), ("ref", none), None, None, ("ref", options)])
    return _model(made, code, operator)


def _model(made: _Bytes, code: int, operator: int | None) -> bytes:
    empty, codes = made.vector(b"", 0), made.references([code])
    operators = empty if operator is None else made.references([operator])
    subgraph = made.table([("ref", empty), ("ref", empty), ("ref", empty), ("ref", operators)])
    subgraphs, buffers = made.references([subgraph]), made.references([made.table([])])
    return made.finish(made.table([("i", 3), ("ref", codes), ("ref", subgraphs), None, ("ref", buffers)]))


class _Bytes:
    """A flatbuffer written from its end to its start; places count bytes from the end."""

    def __init__(self) -> None:
        self._data = b""

    def vector(self, content: bytes, count: int) -> int:
        self._data = struct.pack("<I", count) + content + bytes(-len(content) % 4) + self._data
        return len(self._data)

    def references(self, targets: Sequence[int]) -> int:
        last = len(self._data)
        places = [last + 4 * (len(targets) - i) for i in range(len(targets))]
        offsets = [place - target for place, target in zip(places, targets, strict=True)]
        return self.vector(struct.pack(f"<{len(offsets)}I", *offsets), len(offsets))

    def table(self, fields: Sequence[tuple[str, int] | None]) -> int:
        """A table whose fields take four bytes each: `i` a number, `ref` a place."""
        size = 4 + 4 * sum(field is not None for field in fields)
        place = len(self._data) + size
        slots, inline = [], b""
        for field in fields:
            slots.append(0 if field is None else 4 + len(inline))
            if field is not None:
                kind, value = field
                at = place - 4 - len(inline)
                inline += struct.pack("<i", value if kind == "i" else at - value)
        vtable = struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), size, *slots)
        vtable = bytes(-len(vtable) % 4) + vtable
        length = 4 + 2 * len(slots)
        self._data = vtable + struct.pack("<i", length) + inline + self._data
        return place

    def finish(self, root: int) -> bytes:
        """The whole file."""
        return struct.pack("<I", len(self._data) + 8 - root) + b"TFL3" + self._data
