"""Whether bytes hold together as a TFLite flatbuffer, before a runtime sees them. PURE.

tflite_runtime 2.14 does not verify a model and dies with a segmentation fault on a truncated one. This walk
checks the tables and vectors that a runtime follows first: buffers, operator codes, and each subgraph's
tensors, operators, inputs and outputs. It is a guard against damage, not a full verifier of hostile files;
those are stopped by their SHA-256 and by the worker process around the interpreter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from slicemq.errors import ModelError

_U16, _I32, _U32 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I")
# Field numbers in the TFLite schema (tensorflow/compiler/mlir/lite/schema/schema.fbs).
_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS, _SUBGRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_BUFFER, _TENSOR_NAME = 0, 2, 3
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS = 0, 1, 2
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2


def check_model(data: bytes | memoryview, name: str = "model") -> None:
    """Raise ModelError, which names `name` and what is wrong, unless `data` holds together."""
    if len(data) < 16 or bytes(data[4:8]) != b"TFL3":
        raise ModelError(f"{name}: not a TFLite model: expected the identifier TFL3 at byte 4")
    try:
        with memoryview(data) as view:
            _Walk(view).model()
    except (struct.error, _DamageError) as error:
        raise ModelError(f"{name}: damaged TFLite model ({len(data)} bytes): {error}") from error


class _DamageError(Exception):
    pass


class _Walk:
    def __init__(self, data: memoryview) -> None:
        self._data = data

    def model(self) -> None:
        root = self._follow(0)
        codes = len(list(self._tables(root, _MODEL_CODES)))
        buffers = list(self._tables(root, _MODEL_BUFFERS))
        for buffer in buffers:
            self._vector(buffer, _BUFFER_DATA, 1)
            self._large(buffer)
        subgraphs = list(self._tables(root, _MODEL_SUBGRAPHS))
        if not subgraphs:
            raise _DamageError("no subgraph")
        for subgraph in subgraphs:
            self._subgraph(subgraph, codes, len(buffers))

    def _large(self, buffer: int) -> None:
        """Buffers of models over 2 GB lie behind the flatbuffer, by 64-bit offset and size."""
        place, length = self._field(buffer, _BUFFER_OFFSET), self._field(buffer, _BUFFER_SIZE)
        if place is None or length is None:
            return
        offset, size = (struct.unpack_from("<Q", self._data, at)[0] for at in (place, length))
        if offset > 1 and offset + size > len(self._data):
            raise _DamageError(f"a buffer ends at byte {offset + size}")

    def _subgraph(self, subgraph: int, codes: int, buffers: int) -> None:
        tensors = 0
        for tensors, tensor in enumerate(self._tables(subgraph, _SUBGRAPH_TENSORS), 1):
            self._vector(tensor, _TENSOR_SHAPE, 4)
            self._vector(tensor, _TENSOR_NAME, 1)
            if self._number(tensor, _TENSOR_BUFFER) >= max(1, buffers):
                raise _DamageError(f"tensor {tensors - 1} names a buffer that does not exist")
        for owner, kind in ((_SUBGRAPH_INPUTS, "input"), (_SUBGRAPH_OUTPUTS, "output")):
            self._indices(subgraph, owner, tensors, kind)
        for number, operator in enumerate(self._tables(subgraph, _SUBGRAPH_OPERATORS)):
            if self._number(operator, _OPERATOR_CODE) >= codes:
                raise _DamageError(f"operator {number} names an operator code that does not exist")
            self._indices(operator, _OPERATOR_INPUTS, tensors, f"input of operator {number}")
            self._indices(operator, _OPERATOR_OUTPUTS, tensors, f"output of operator {number}")

    def _indices(self, table: int, field: int, tensors: int, what: str) -> None:
        start, count = self._vector(table, field, 4)
        for index in struct.unpack_from(f"<{count}i", self._data, start):
            if not -1 <= index < tensors:
                raise _DamageError(f"{what}: no tensor {index}")

    def _follow(self, at: int) -> int:
        """The position that the offset at `at` points to."""
        target = at + int(_U32.unpack_from(self._data, at)[0])
        if target + 4 > len(self._data):
            raise _DamageError(f"an offset at byte {at} points behind the end")
        return target

    def _field(self, table: int, number: int) -> int | None:
        """Where a field of a table lies, or None when it is absent."""
        vtable = table - int(_I32.unpack_from(self._data, table)[0])
        if not 0 <= vtable <= len(self._data) - 4:
            raise _DamageError(f"the table at byte {table} has its vtable outside")
        slot = 4 + 2 * number
        if slot + 2 > _U16.unpack_from(self._data, vtable)[0]:
            return None
        offset = int(_U16.unpack_from(self._data, vtable + slot)[0])
        return table + offset if offset else None

    def _number(self, table: int, field: int) -> int:
        at = self._field(table, field)
        return 0 if at is None else int(_U32.unpack_from(self._data, at)[0])

    def _vector(self, table: int, field: int, item: int) -> tuple[int, int]:
        """Where a vector's items start and how many there are; (0, 0) when it is absent."""
        at = self._field(table, field)
        if at is None:
            return 0, 0
        vector = self._follow(at)
        count = int(_U32.unpack_from(self._data, vector)[0])
        if vector + 4 + count * item > len(self._data):
            raise _DamageError(f"a vector at byte {vector} of {count * item} bytes goes behind the end")
        return vector + 4, count

    def _tables(self, table: int, field: int) -> Iterator[int]:
        start, count = self._vector(table, field, 4)
        for number in range(count):
            yield self._follow(start + 4 * number)
