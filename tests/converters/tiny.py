"""Small hand-made .tflite files: tensors and operators in, a flatbuffer out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Tiny:
    """A model under construction; every method that adds returns the index of what it added."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.metadata: list[Any] = []
        self.signatures: list[Any] = []
        self.name = "main"
        self.called: list[Tiny] = []

    def subgraph(self, name: str) -> tuple[int, Tiny]:
        """Another subgraph of the same model and its index; its tensors and operators are its own."""
        other = Tiny()
        other.name, other.codes, other.buffers = name, self.codes, self.buffers
        self.called.append(other)
        return len(self.called), other

    def variable(self, shape: Sequence[int], dtype: str = "FLOAT32", name: str | None = None) -> int:
        """A tensor that an operator keeps its state in."""
        index = self.tensor(shape, dtype, name=name)
        self.tensors[index].isVariable = True
        return index

    def handle(self, name: str, container: str = "") -> int:
        """A VAR_HANDLE's resource tensor."""
        options = schema.VarHandleOptionsT(container=container, sharedName=name)
        return self.op("VAR_HANDLE", [], (), options=options, dtype="RESOURCE")

    def read(self, handle: int, shape: Sequence[int] = (1, 4), dtype: str = "FLOAT32") -> int:
        return self.op("READ_VARIABLE", [handle], shape, options=schema.ReadVariableOptionsT(), dtype=dtype)

    def assign(self, handle: int, value: int) -> None:
        self.op("ASSIGN_VARIABLE", [handle, value], outputs=[], options=schema.AssignVariableOptionsT())

    def call_once(self, subgraph: int) -> None:
        self.op("CALL_ONCE", [], outputs=[], options=schema.CallOnceOptionsT(initSubgraphIndex=subgraph))

    def sign(self, key: str, inputs: dict[str, int], outputs: dict[str, int]) -> None:
        """Add a signature: names of the inputs and outputs."""
        sides = [[schema.TensorMapT(name=n, tensorIndex=t) for n, t in side.items()] for side in (inputs, outputs)]
        self.signatures.append(schema.SignatureDefT(signatureKey=key, inputs=sides[0], outputs=sides[1]))

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "FLOAT32",
        *,
        name: str | None = None,
        buffer: int = 0,
        signature: Sequence[int] | None = None,
        scale: Sequence[float] = (),
    ) -> int:
        tensor = schema.TensorT(
            shape=np.array(shape, np.int32),
            type=getattr(schema.TensorType, dtype),
            buffer=buffer,
            name=f"t{len(self.tensors)}" if name is None else name,
        )
        if signature is not None:
            tensor.shapeSignature = np.array(signature, np.int32)
        if scale:
            tensor.quantization = schema.QuantizationParametersT(
                scale=np.array(scale, np.float32), zeroPoint=np.zeros(len(scale), np.int64)
            )
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def buffer(self, content: bytes) -> int:
        self.buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
        return len(self.buffers) - 1

    def constant(self, array: Array, name: str | None = None) -> int:
        dtype = array.dtype.name.upper()
        return self.tensor(array.shape, dtype, name=name, buffer=self.buffer(array.tobytes()))

    def input(self, shape: Sequence[int], dtype: str = "FLOAT32", name: str | None = None) -> int:
        self.inputs.append(self.tensor(shape, dtype, name=name))
        return self.inputs[-1]

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int] = (1, 4),
        *,
        outputs: Sequence[int] | None = None,
        options: Any = None,
        version: int = 1,
        dtype: str = "FLOAT32",
        tensor: str | None = None,
    ) -> int:
        """Add an operator; returns its (first) output tensor, made when `outputs` is not given; -1 if none."""
        made = list(outputs) if outputs is not None else [self.tensor(shape, dtype, name=tensor)]
        builtin = getattr(schema.BuiltinOperator, name, None)
        kind = type(options).__name__.removesuffix("T") if options is not None else "NONE"
        second = not hasattr(schema.BuiltinOptions, kind)
        if builtin is None:
            code = schema.OperatorCodeT(deprecatedBuiltinCode=32, builtinCode=32, customCode=name, version=version)
        else:
            code = schema.OperatorCodeT(
                deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin, version=version
            )
        self.codes.append(code)
        self.operators.append(
            schema.OperatorT(
                opcodeIndex=len(self.codes) - 1,
                inputs=np.array(inputs, np.int32),
                outputs=np.array(made, np.int32),
                builtinOptionsType=0 if second else getattr(schema.BuiltinOptions, kind),
                builtinOptions=None if second else options,
                builtinOptions2Type=getattr(schema.BuiltinOptions2, kind) if second else 0,
                builtinOptions2=options if second else None,
            )
        )
        return made[0] if made else -1

    def dense(self, x: int, weights: int, bias: int = -1, shape: Sequence[int] = (1, 4)) -> int:
        return self.op("FULLY_CONNECTED", [x, weights, bias], shape, options=schema.FullyConnectedOptionsT())

    def table(self, outputs: Sequence[int] | None = None) -> Any:
        return schema.SubGraphT(
            tensors=self.tensors,
            inputs=np.array(self.inputs, np.int32),
            outputs=np.array(self.outputs if outputs is None else outputs, np.int32),
            operators=self.operators,
            name=self.name,
        )

    def build_with_weights_behind(self, outputs: Sequence[int], base: int = 1 << 16) -> bytes:
        """As files of more than 2 GB are: buffers and custom options lie behind the flatbuffer, equal ones once."""
        behind = bytearray()
        places: dict[bytes, int] = {}

        def place(content: bytes) -> int:
            if content not in places:
                behind.extend(bytes(-len(behind) % 16))
                places[content] = base + len(behind)
                behind.extend(content)
            return places[content]

        for buffer in self.buffers:
            if buffer.data is not None and len(buffer.data):
                content = bytes(buffer.data)
                buffer.data, buffer.offset, buffer.size = None, place(content), len(content)
        for operator in self.operators:
            if operator.customOptions is not None:
                content = bytes(operator.customOptions)
                operator.customOptions = None
                operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize = place(content), len(content)
        flatbuffer = self.build(outputs)
        assert len(flatbuffer) <= base
        return flatbuffer + bytes(base - len(flatbuffer)) + bytes(behind)

    def build(self, outputs: Sequence[int] | None = None) -> bytes:
        model = schema.ModelT(
            version=3,
            operatorCodes=self.codes,
            subgraphs=[self.table(outputs), *(other.table() for other in self.called)],
            buffers=self.buffers,
            description="tiny",
            metadata=self.metadata,
            signatureDefs=self.signatures,
        )
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def chain(length: int = 4, shape: Sequence[int] = (1, 4)) -> bytes:
    """x -> x + c -> x + c ...: one input, one output, one constant shared by all."""
    tiny = Tiny()
    x = tiny.input(shape, name="x")
    c = tiny.constant(np.full(shape, 0.5, np.float32), name="c")
    for _ in range(length):
        x = tiny.op("ADD", [x, c], shape, options=schema.AddOptionsT())
    return tiny.build([x])


def diamond(size: int = 4) -> bytes:
    """x -> a; a -> b, a -> c; d = b + c + (skip from x); all of shape (1, size)."""
    tiny, shape = Tiny(), (1, size)
    x = tiny.input(shape, name="x")
    a = tiny.op("TANH", [x], shape)
    b = tiny.op("RELU", [a], shape)
    c = tiny.op("LOGISTIC", [a], shape)
    d = tiny.op("ADD", [b, c], shape, options=schema.AddOptionsT())
    e = tiny.op("ADD", [d, x], shape, options=schema.AddOptionsT())
    return tiny.build([e])


def half_weights() -> bytes:
    """Two dense layers that share float16 weights behind a DEQUANTIZE."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    half = tiny.constant(np.arange(16, dtype=np.float16).reshape(4, 4) / 16, name="half")
    weights = tiny.op("DEQUANTIZE", [half], (4, 4), options=schema.DequantizeOptionsT())
    y = tiny.dense(x, weights)
    z = tiny.op("TANH", [y])
    return tiny.build([tiny.dense(z, weights)])
