"""Small hand-made models with state, and with operators that call subgraphs."""

from __future__ import annotations

import ai_edge_litert.schema_py_generated as schema
import numpy as np

from tests.converters.tiny import Tiny

_ADD = schema.AddOptionsT()
_I64, _STRING = schema.TensorType.INT64, schema.TensorType.STRING


def _ints(tiny: Tiny, *values: int) -> int:
    return tiny.constant(np.array(values, np.int32))


def streams(names: tuple[str, ...] = ("a", "b", "c"), shuffled: bool = False) -> bytes:
    """For each name x = tanh(x), v = v + x, x = v: sums in variables, all initialised in one subgraph.

    With `shuffled` all variables are read at the beginning and written at the end.
    """
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    number, init = tiny.subgraph("NoOp")
    for i, name in enumerate(names, start=1):
        init.assign(init.handle(name), init.constant(np.full((1, 4), i / 8, np.float32)))
    tiny.call_once(number)
    handles = [tiny.handle(name) for name in names]
    reads = [tiny.read(handle) for handle in handles] if shuffled else []
    sums = []
    for i, handle in enumerate(handles):
        x = tiny.op("TANH", [x])
        x = tiny.op("ADD", [x, reads[i] if shuffled else tiny.read(handle)], options=_ADD)
        sums.append((handle, x))
        if not shuffled:
            tiny.assign(handle, x)
    x = tiny.op("TANH", [x])
    for handle, total in sums if shuffled else ():
        tiny.assign(handle, total)
    return tiny.build([x])


def counter_behind() -> bytes:
    """y = tanh(x) + v, then v = v + 1: what is written is read in the next frame only; nothing else needs it."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    number, init = tiny.subgraph("init")
    for name in ("v", "unused"):
        init.assign(init.handle(name), init.constant(np.zeros((1, 4), np.float32)))
    tiny.call_once(number)
    handle, unused = tiny.handle("v"), tiny.handle("unused")
    value = tiny.read(handle)
    y = tiny.op("ADD", [tiny.op("TANH", [x]), value], options=_ADD)
    tiny.assign(unused, y)
    one = tiny.constant(np.ones((1, 4), np.float32))
    tiny.assign(handle, tiny.op("ADD", [value, one], options=_ADD))
    return tiny.build([tiny.op("TANH", [y])])


def frozen_variables() -> bytes:
    """Weights in variables that nothing writes after initialisation, used twice."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    number, init = tiny.subgraph("init")
    for name in ("weights", "others"):
        value = np.arange(16, dtype=np.float32).reshape(4, 4) / 16
        init.assign(init.handle(name), init.constant(value))
    tiny.call_once(number)
    for name in ("weights", "weights", "others"):
        weights = tiny.read(tiny.handle(name), (4, 4))
        x = tiny.op("BATCH_MATMUL", [x, weights], options=schema.BatchMatMulOptionsT())
    return tiny.build([x])


def lstm(layers: int = 2) -> bytes:
    """LSTM layers that keep their states in variable tensors, each in its own two."""
    tiny = Tiny()
    x = tiny.input((1, 1, 4), name="x")
    rng = np.random.default_rng(5)
    for _ in range(layers):
        weights = [tiny.constant(rng.standard_normal((4, 4)).astype(np.float32)) for _ in range(8)]
        biases = [tiny.constant(rng.standard_normal(4).astype(np.float32)) for _ in range(4)]
        states = [tiny.variable((1, 4)) for _ in range(2)]
        inputs = [x, *weights, -1, -1, -1, *biases, -1, -1, *states, -1, -1, -1, -1]
        options = schema.UnidirectionalSequenceLSTMOptionsT(fusedActivationFunction=4)
        x = tiny.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, (1, 1, 4), options=options)
        x = tiny.op("TANH", [x], (1, 1, 4))
    return tiny.build([x])


def shared_state() -> bytes:
    """Two LSTM layers that use the same two variable tensors."""
    tiny = Tiny()
    x = tiny.input((1, 1, 4), name="x")
    rng = np.random.default_rng(6)
    states = [tiny.variable((1, 4)) for _ in range(2)]
    for _ in range(2):
        weights = [tiny.constant(rng.standard_normal((4, 4)).astype(np.float32)) for _ in range(8)]
        biases = [tiny.constant(rng.standard_normal(4).astype(np.float32)) for _ in range(4)]
        inputs = [x, *weights, -1, -1, -1, *biases, -1, -1, *states, -1, -1, -1, -1]
        options = schema.UnidirectionalSequenceLSTMOptionsT(fusedActivationFunction=4)
        x = tiny.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, (1, 1, 4), options=options)
        x = tiny.op("TANH", [x], (1, 1, 4))
    return tiny.build([x])


def loop(body_kind: str = "static", rounds: int = 3, before: str = "") -> bytes:
    """tanh, WHILE (tanh `rounds` times), tanh. body_kind: `static`, `dynamic` (a shape is known only while it
    runs), `growing` (each round doubles the rows). before: a subgraph that nothing calls comes first, `static`
    or `dynamic`.
    """
    tiny = Tiny()
    y = tiny.op("TANH", [tiny.input((1, 4), name="x")])
    if before:
        _, idle = tiny.subgraph("idle")
        idle.outputs = [_dynamic(idle, idle.input((1, 4))) if before == "dynamic" else idle.input((1, 4))]
        idle.op("TANH", [idle.inputs[0]])
    condition, cond = tiny.subgraph("cond")
    action, body = tiny.subgraph("body")
    count, _ = cond.input((), "INT32"), cond.input((1, 4))
    cond.outputs = [cond.op("LESS", [count, cond.constant(np.array(rounds, np.int32))], (), dtype="BOOL")]
    count, value = body.input((), "INT32"), body.input((1, 4))
    one = body.constant(np.array(1, np.int32))
    value = body.op("TANH", [value])
    if body_kind == "dynamic":
        value = _dynamic(body, value)
    if body_kind == "growing":
        options = schema.ConcatenationOptionsT(axis=0)
        value = body.op("CONCATENATION", [value, value], (2, 4), options=options)
    body.outputs = [body.op("ADD", [count, one], (), dtype="INT32", options=_ADD), value]
    made = [tiny.tensor((), "INT32"), tiny.tensor((1, 4))]
    options = schema.WhileOptionsT(condSubgraphIndex=condition, bodySubgraphIndex=action)
    tiny.op("WHILE", [tiny.constant(np.array(0, np.int32)), y], outputs=made, options=options)
    return tiny.build([tiny.op("TANH", [made[1]])])


def _dynamic(tiny: Tiny, x: int) -> int:
    shape = tiny.op("MAXIMUM", [_ints(tiny, 1, 4), _ints(tiny, 1, 1)], (2,), dtype="INT32")
    return tiny.op("RESHAPE", [x, shape])


def branches(kind: str = "static") -> bytes:
    """Two IF in a row that share the branches. kind: `static`, `dynamic`, `different` (results of other shapes), or
    `nested` (the first branch has an IF of its own).
    """
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    y = tiny.op("TANH", [x])
    total = tiny.op("SUM", [x, _ints(tiny, 0, 1)], (), options=schema.ReducerOptionsT())
    zero = tiny.constant(np.array(0, np.float32))
    positive = tiny.op("GREATER", [total, zero], (), dtype="BOOL")
    first, then = tiny.subgraph("then")
    second, other = tiny.subgraph("else")
    given = then.input((1, 4))
    if kind == "nested":
        inner, deep = tiny.subgraph("deep")
        deep.outputs = [deep.op("LOGISTIC", [deep.input((1, 4))])]
        yes = then.constant(np.array(True))
        options = schema.IfOptionsT(thenSubgraphIndex=inner, elseSubgraphIndex=inner)
        then.outputs = [then.op("IF", [yes, given], options=options)]
    else:
        then.outputs = [then.op("TANH", [given])]
    made = other.op("LOGISTIC", [other.input((1, 4))])
    if kind == "dynamic":
        made = _dynamic(other, made)
    if kind == "different":
        made = other.op("CONCATENATION", [made, made], (2, 4), options=schema.ConcatenationOptionsT(axis=0))
    other.outputs = [made]
    options = schema.IfOptionsT(thenSubgraphIndex=first, elseSubgraphIndex=second)
    for _ in range(1 if kind == "different" else 2):
        y = tiny.op("TANH", [tiny.op("IF", [positive, y], options=options)])
    return tiny.build([y])


def stateful_branch() -> bytes:
    """tanh, then an IF whose one branch reads and writes a variable, tanh, and a READ_VARIABLE of it at the end."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    number, init = tiny.subgraph("init")
    init.assign(init.handle("v"), init.constant(np.full((1, 4), 0.25, np.float32)))
    tiny.call_once(number)
    y = tiny.op("TANH", [x])
    total = tiny.op("SUM", [x, _ints(tiny, 0, 1)], (), options=schema.ReducerOptionsT())
    positive = tiny.op("GREATER", [total, tiny.constant(np.array(0, np.float32))], (), dtype="BOOL")
    first, then = tiny.subgraph("then")
    handle = then.handle("v")
    made = then.op("ADD", [then.input((1, 4)), then.read(handle)], options=_ADD)
    then.assign(handle, made)
    then.outputs = [made]
    second, other = tiny.subgraph("else")
    other.outputs = [other.op("LOGISTIC", [other.input((1, 4))])]
    options = schema.IfOptionsT(thenSubgraphIndex=first, elseSubgraphIndex=second)
    y = tiny.op("TANH", [tiny.op("IF", [positive, y], options=options)])
    y = tiny.op("LOGISTIC", [y])
    return tiny.build([tiny.op("ADD", [y, tiny.read(tiny.handle("v"))], options=_ADD)])


def lookup() -> bytes:
    """The place of the largest value, looked up in a hash table (numbers to words to numbers), filled once."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    number, init = tiny.subgraph("init")
    keys, words = np.arange(4, dtype=np.int64), tiny.buffer(strings("a", "b", "c", "d"))
    wanted = init.tensor((4,), "STRING", buffer=words)
    init.op("HASHTABLE_IMPORT", [_table(init, 1, _I64, _STRING), init.constant(keys), wanted], outputs=[])
    results = init.constant(keys * 10)
    init.op("HASHTABLE_IMPORT", [_table(init, 2, _STRING, _I64), wanted, results], outputs=[])
    tiny.call_once(number)
    y = tiny.op("TANH", [x])
    options = schema.ArgMaxOptionsT(outputType=_I64)
    best = tiny.op("ARG_MAX", [y, _ints(tiny, 1)], (1,), dtype="INT64", options=options)
    other = tiny.tensor((1,), "STRING", buffer=tiny.buffer(strings("?")))
    word = tiny.op(
        "HASHTABLE_FIND", [_table(tiny, 1, _I64, _STRING), best, other], (1,), dtype="STRING", tensor="word"
    )
    none = tiny.constant(np.array([-1], np.int64))
    found = tiny.op("HASHTABLE_FIND", [_table(tiny, 2, _STRING, _I64), word, none], (1,), dtype="INT64")
    return tiny.build([found, tiny.op("TANH", [y])])


def _table(tiny: Tiny, number: int, key: int, value: int) -> int:
    options = schema.HashtableOptionsT(tableId=number, keyDtype=key, valueDtype=value)
    return tiny.op("HASHTABLE", [], (1,), dtype="RESOURCE", options=options)


def strings(*words: str) -> bytes:
    """A buffer of strings as TFLite has them: their number, where each begins and the last ends, their bytes."""
    places = np.cumsum([4 * (len(words) + 2), *(len(word) for word in words)])
    return np.array([len(words), *places], np.int32).tobytes() + "".join(words).encode()
