"""The seam to the TFLite schema classes (from ai_edge_litert's wheel) and to hostile bytes.

The generated classes read lazily and trust every offset, so whatever they raise on damaged bytes is turned into
ModelError here, and `Budget` bounds what overlapping vectors could make of a small file.
"""

from __future__ import annotations

import importlib
import mmap
import re
import struct
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from slicemq.errors import MissingDependencyError, ModelError

Bytes = bytes | bytearray | memoryview | mmap.mmap

IDENTIFIER = b"TFL3"
MAX_MODEL_BYTES = 2**31 - 1
# What struct, numpy and the flatbuffers package raise on offsets, counts and types that do not hold together.
_DAMAGE = (
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def classes() -> Any:
    """The generated schema module; raises MissingDependencyError when ai_edge_litert is not installed."""
    try:
        import ai_edge_litert.schema_py_generated as schema
    except ImportError as error:
        raise MissingDependencyError(
            f"reading .tflite files needs the package ai-edge-litert (pip install 'slicemq[coordinator]'): {error}"
        ) from error
    return schema


@cache
def builtin_operators() -> Mapping[str, int]:
    """Name -> code of TFLite's own operators, as the installed schema has them."""
    members = vars(classes().BuiltinOperator).items()
    return {name: code for name, code in members if isinstance(code, int) and not name.startswith("_")}


def builder(room: int) -> Any:
    """A flatbuffers builder with `room` bytes to start with."""
    try:
        return importlib.import_module("flatbuffers").Builder(room)
    except ImportError as error:
        raise MissingDependencyError(f"writing .tflite files needs the package flatbuffers: {error}") from error


@contextmanager
def damage_as_model_error(what: str) -> Iterator[None]:
    """Turn what the schema classes raise on damaged bytes into a ModelError that names `what`."""
    try:
        yield
    except ModelError as error:
        _let_go(error)
        raise
    except _DAMAGE as error:
        _let_go(error)
        raise ModelError(f"{what}: damaged TFLite flatbuffer ({_detail(error)})") from error


def _detail(error: BaseException) -> str:
    """What is wrong, for people: an offset past the end most often means that the file was cut short."""
    text = str(error) or type(error).__name__
    past = re.match(r"unpack_from requires a buffer of at least (\d+) bytes.*actual buffer size is (\d+)", text)
    return f"{past[2]} bytes that refer to byte {past[1]}: truncated?" if past else text


def _let_go(error: BaseException) -> None:
    """Drop the local variables behind `error`: views of a mapped file among them would keep it from closing."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def open_model(path: str | Path) -> mmap.mmap:
    """Map a model file into memory without reading it; raises ModelError when that is not possible."""
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise ModelError(f"{path}: cannot read the model: no plain file")
    try:
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise ModelError(f"{path}: an empty file, not a TFLite model") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror or error}") from error


def root(data: Bytes) -> Any:
    """The `Model` table of `data`; raises ModelError unless it is a .tflite flatbuffer.

    A file of more than 2 GB is one when its weights lie behind the flatbuffer.
    """
    if len(data) < 8 or bytes(data[4:8]) != IDENTIFIER:
        raise ModelError("not a TFLite model: the file identifier 'TFL3' is missing at byte 4")
    with damage_as_model_error("model"):
        return classes().Model.GetRootAs(data, 0)


def buffer_content(data: Bytes, buffer: Any, what: str) -> tuple[int, Any]:
    """(offset in the file or 0, bytes as a view: uint8 array or memoryview) of a buffer of the model, in the
    flatbuffer or behind it; the view is None when it has none. Raises ModelError when the file is too short.
    """
    offset, size = buffer.Offset(), buffer.Size()
    if offset > 1 or size > 1:
        return _behind(data, offset, size, what)
    if buffer.DataIsNone():
        return 0, None
    length = buffer.DataLength()
    content = buffer.DataAsNumpy() if length else np.zeros(0, np.uint8)
    if len(content) != length:
        raise ModelError(f"{what}: {length} bytes, the file has {len(data)}")
    return 0, content


def large_options(data: Bytes, operator: Any, what: str) -> Any:
    """An operator's custom options behind the flatbuffer (uint8 array), None for one that has none there."""
    offset, size = operator.LargeCustomOptionsOffset(), operator.LargeCustomOptionsSize()
    return _behind(data, offset, size, what)[1] if offset > 1 or size > 1 else None


def _behind(data: Bytes, offset: int, size: int, what: str) -> tuple[int, Any]:
    if offset <= 1 or offset + size > len(data):
        raise ModelError(f"{what}: bytes {offset} to {offset + size} of a file of {len(data)} bytes: truncated?")
    return offset, np.frombuffer(data, np.uint8, size, offset)


class Budget:
    """Counts the elements that reading a model takes; a sound file never holds more bytes than it has."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, count: int, what: str, each: int = 4) -> int:
        """Return `count` (elements of `each` bytes); raises ModelError when the file cannot hold that many."""
        self._left -= count * each
        if count < 0 or self._left < 0:
            raise ModelError(f"{what}: damaged TFLite flatbuffer (more elements than the file has bytes)")
        return count


def vector(table: Any, field: str, budget: Budget, what: str, each: int = 4) -> list[Any]:
    """The scalars of vector `field` of a generated class, [] when it is absent."""
    if not budget.take(getattr(table, f"{field}Length")(), f"{what} {field}", each):
        return []
    return list(getattr(table, f"{field}AsNumpy")().tolist())
