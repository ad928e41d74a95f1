"""The class of each operator: what a node's speed at it is read from (pure).

A class is a kind of work and what the runtime's choice of kernels depends on besides: `-int8` for quantised
activations, `-hybrid` for quantised weights alone, `-dynamic` for float32 operators of a model with shapes that it
learns while it runs (`converters.dynamic`). One runtime may be forty times faster than another in one class and as
fast in the next. `edge_node.calibration` has a model of each.
"""

from __future__ import annotations

from converters.graph import Graph, Operator, operator_class

# Bound by a formula for each element, not by memory.
_FUNCTIONS = frozenset(
    {
        "COS",
        "ELU",
        "EXP",
        "GELU",
        "HARD_SWISH",
        "LOG",
        "LOGISTIC",
        "LOG_SOFTMAX",
        "POW",
        "RSQRT",
        "SIN",
        "SOFTMAX",
        "SQRT",
        "TANH",
    }
)
# What puts values elsewhere, for which most runtimes have one kernel only; and transforms, which have one too.
_MOVING = frozenset(
    {
        "BATCH_TO_SPACE_ND",
        "BROADCAST_TO",
        "CAST",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "DYNAMIC_UPDATE_SLICE",
        "EMBEDDING_LOOKUP",
        "EXPAND_DIMS",
        "FFT",
        "FILL",
        "GATHER",
        "GATHER_ND",
        "MIRROR_PAD",
        "PACK",
        "PAD",
        "PADV2",
        "RANGE",
        "RESHAPE",
        "REVERSE_V2",
        "RFFT2D",
        "SCATTER_ND",
        "SELECT",
        "SELECT_V2",
        "SHAPE",
        "SLICE",
        "SPACE_TO_BATCH_ND",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SPLIT_V",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TILE",
        "TOPK_V2",
        "TRANSPOSE",
        "UNPACK",
        "WHERE",
    }
)
_REGIMES: dict[str, tuple[str, ...]] = {
    "conv": ("int8", "hybrid", "dynamic"),
    "depthwise": ("int8", "hybrid", "dynamic"),
    "dense": ("int8", "hybrid", "dynamic"),
    "elementwise": ("int8", "dynamic"),
    "function": ("dynamic",),
    "moving": (),
}
_QUANTIZED = ("int8", "uint8", "int16", "int4", "int2", "uint4")

CLASSES = tuple(f"{kind}-{regime}" if regime else kind for kind, more in _REGIMES.items() for regime in ("", *more))
"""All classes; those of no regime first within each kind."""


def class_of(graph: Graph, operator: Operator) -> str:
    """The class of an operator of `graph`, one of CLASSES."""
    kind = operator_class(operator.name)
    if kind == "elementwise":
        kind = "function" if operator.name in _FUNCTIONS else "moving" if operator.name in _MOVING else kind
    made = [graph.tensors[t].dtype for t in operator.outputs if t >= 0]
    read = [graph.tensors[t].dtype for t in operator.inputs if t >= 0]
    regime = ""
    if any(dtype in _QUANTIZED for dtype in made):
        regime = "int8"
    elif kind in ("conv", "depthwise", "dense") and any(dtype in _QUANTIZED for dtype in read[1:]):
        regime = "hybrid"
    elif graph.dynamic:
        regime = "dynamic"
    # A quantised function is a table that is looked up, as fast as moving.
    if kind == "function" and regime == "int8":
        return "moving"
    return f"{kind}-{regime}" if regime in _REGIMES[kind] else kind
