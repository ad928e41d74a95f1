"""The one seam over the TFLite runtimes: `ai_edge_litert` and `tflite_runtime`.

The two (and TensorFlow) break each other in one process, so a process uses the first that it has loaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import mmap
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_node.modelcheck import check_model
from edge_node.residency import drop_file_pages
from slicemq.errors import InputError, ModelError, RuntimeUnavailableError, UnsupportedOperatorError
from slicemq.messages import RuntimeInfo

# In order of preference: the first is faster on everything that was measured and knows newer operators.
RUNTIMES = ("ai_edge_litert", "tflite_runtime")
_DISTRIBUTIONS = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}
_LACKING = (
    re.compile(r"builtin opcode '(?P<op>[^']+)' version '(?P<version>\d+)'"),
    re.compile(r"(?:unresolved|unsupported) custom op:? '?(?P<op>[\w.:/-]*\w)"),
    re.compile(r"Op builtin_code out of range: (?P<op>\d+)"),
    re.compile(r"Select TensorFlow op\(s\), included in the given model, .*\((?P<op>\w+)\)", re.DOTALL),
)
# What the runtimes raise; MemoryError is their std::bad_alloc, for a damaged model that asks for terabytes.
_FAILURES = (ValueError, RuntimeError, MemoryError)
_MOST_SIZE = (1 << 31) - 1
_stderr_lock = threading.Lock()
_greeted = False


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model: numpy's dtype name (`string` for strings) and the shape as allocated."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Interpreter:
    """A loaded model with memory for its tensors. For one thread at a time."""

    def __init__(self, start: Callable[[], Any], runtime: RuntimeInfo, name: str, path: Path | None = None) -> None:
        """`start` loads the model and allocates its tensors; `path` is the file that it has mapped, if any."""
        self.runtime = runtime
        self._start = start
        self._native = start()
        self._name = name
        self._path = path
        self._cold = False
        # Functions that make views of the tensors' own memory; they may be held, the views may not.
        self._input_views: list[Callable[[], Any]] = []
        self._output_views: list[Callable[[], Any]] = []
        self._describe()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs in the order of the model's subgraph."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs in the order of the model's subgraph; shapes that depend on data are known after `invoke`."""
        return self._outputs

    def set_input(self, position: int, array: npt.NDArray[Any]) -> None:
        """Copy `array` into input `position`; raises InputError that names it when dtype or shape differ."""
        info = self._inputs[position]
        fits = array.dtype == self._input_dtypes[position] and array.shape == info.shape
        if not (fits or info.dtype == "string" or (array.dtype.name, array.shape) == (info.dtype, info.shape)):
            raise InputError(
                f"{self._name}: input {position} ({info.name}): expected {info.dtype} {list(info.shape)}, "
                f"got {array.dtype.name} {list(array.shape)}"
            )
        try:
            # Of a tensor without dimensions the runtime gives no view but its value.
            if info.dtype == "string" or not array.size or not array.ndim:
                self._native.set_tensor(self._input_indices[position], array)
            else:
                # `set_tensor` copies twice what is read-only, as arrays that share a message's memory are.
                self._input_views[position]()[...] = array
        except _FAILURES as error:
            raise InputError(f"{self._name}: input {position} ({info.name}): {_first_line(error)}") from error

    def input_view(self, position: int) -> npt.NDArray[Any] | None:
        """Input `position` as a writable view of the interpreter's own memory, for who makes its values there.

        Contiguous, of the input's dtype and shape; None for strings and inputs without elements or dimensions.
        Drop it before the next `invoke`, `resize` or `reset`: the runtime refuses to run while a view lives.
        """
        info = self._inputs[position]
        if info.dtype == "string" or not info.shape or 0 in info.shape:
            return None
        view: npt.NDArray[Any] = self._input_views[position]()
        return view

    def invoke(self) -> None:
        """Run the model on the inputs that are set; raises ModelError with the runtime's reason."""
        try:
            self._native.invoke()
        except _FAILURES as error:
            raise ModelError(f"{self._name}: {_first_line(error)}") from error
        if self._cold:
            self._cold = False
            self._drop_file_pages()

    def output(self, position: int, *, copy: bool = True) -> npt.NDArray[Any]:
        """Output `position` of the last `invoke`.

        With `copy=False` a view of the interpreter's own memory: drop it before the next `invoke` or
        `resize`, which the runtime refuses while a view lives.
        """
        index = self._output_indices[position]
        try:
            if copy or self._outputs[position].dtype == "string":
                array: npt.NDArray[Any] = self._native.get_tensor(index)
            else:
                array = self._output_views[position]()
        except _FAILURES as error:
            detail = self._native.get_output_details()[position]
            shape = tuple(int(size) for size in detail["shape"])
            if 0 not in shape:
                raise ModelError(f"{self._name}: output {position}: {_first_line(error)}") from error
            # ai_edge_litert does not hand out a tensor without elements.
            return np.zeros(shape, detail["dtype"])
        return array

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Give every input a new shape and allocate again; raises ModelError when the model cannot have it.

        Allocating packs the weights again; `warm_up` says what happens to a file's pages.
        """
        if len(shapes) != len(self._input_indices):
            raise InputError(f"{self._name}: {len(shapes)} shapes for {len(self._input_indices)} inputs")
        if any(not 0 <= size <= _MOST_SIZE for shape in shapes for size in shape):
            # tflite_runtime takes them, as negative sizes, and ends the process later.
            raise ModelError(f"{self._name}: shapes {list(shapes)}: expected sizes from 0 to {_MOST_SIZE}")
        try:
            for index, shape in zip(self._input_indices, shapes, strict=True):
                self._native.resize_tensor_input(index, list(shape), strict=False)
            self._native.allocate_tensors()
        except _FAILURES as error:
            raise ModelError(f"{self._name}: shapes {list(shapes)}: {_first_line(error)}") from error
        self._describe()
        self._drop_file_pages()

    def reset(self) -> None:
        """Go back to the model's initial state, at the present shapes; raises ModelError.

        The runtimes have no call for that (theirs leaves resource variables alone), so the model is loaded again,
        after the old one is gone: memory holds it once. After an error only `reset` may be called.
        """
        shapes = [info.shape for info in self._inputs]
        self._native = None
        self._input_views, self._output_views = [], []
        self._native = self._start()
        self._describe()
        if [info.shape for info in self._inputs] != shapes:
            self.resize(shapes)
        # `warm_up` would change the state: the first frame does what it does for the file's pages.
        self._cold = True

    def warm_up(self) -> None:
        """Run once on zeros, so that the first frame does not pay for lazy preparation.

        By then the runtime has packed the weights that it packs; the pages of a model's file leave the process's
        memory, and those that are still read come back with the next `invoke` (`edge_node.residency`).
        """
        for position, info in enumerate(self._inputs):
            if info.dtype != "string":
                self.set_input(position, np.zeros(info.shape, info.dtype))
        self.invoke()
        self._drop_file_pages()

    def _drop_file_pages(self) -> None:
        if self._path is not None:
            drop_file_pages(self._path)

    def _describe(self) -> None:
        try:
            inputs, outputs = self._native.get_input_details(), self._native.get_output_details()
        except _FAILURES as error:
            # A name that is no UTF-8, for one.
            raise ModelError(f"{self._name}: its inputs and outputs: {_first_line(error)}") from error
        self._input_indices = [int(detail["index"]) for detail in inputs]
        self._output_indices = [int(detail["index"]) for detail in outputs]
        self._input_views = [self._native.tensor(index) for index in self._input_indices]
        self._output_views = [self._native.tensor(index) for index in self._output_indices]
        self._input_dtypes = [np.dtype(detail["dtype"]) for detail in inputs]
        self._inputs = tuple(_info(detail) for detail in inputs)
        self._outputs = tuple(_info(detail) for detail in outputs)


def available_runtimes() -> tuple[RuntimeInfo, ...]:
    """The runtimes that are installed, best first, found without importing them."""
    return tuple(RuntimeInfo(name, _version(name)) for name in RUNTIMES if importlib.util.find_spec(name))


def load_runtime(runtime: str = "auto") -> RuntimeInfo:
    """Import a runtime: `auto` takes the one already loaded, else the best that imports.

    Raises RuntimeUnavailableError that says how to install one.
    """
    loaded = [name for name in RUNTIMES if f"{name}.interpreter" in sys.modules]
    if runtime not in ("auto", *RUNTIMES):
        raise RuntimeUnavailableError(f"runtime {runtime!r}: expected auto, {' or '.join(RUNTIMES)}")
    if loaded and runtime not in ("auto", loaded[0]):
        raise RuntimeUnavailableError(f"{runtime} and {loaded[0]} cannot both be used in one process")
    reasons = []
    for name in loaded or (RUNTIMES if runtime == "auto" else (runtime,)):
        try:
            importlib.import_module(f"{name}.interpreter")
        except Exception as error:  # noqa: BLE001 - a runtime built for another numpy fails in many ways
            reasons.append(f"{name}: {_first_line(error)}")
        else:
            return RuntimeInfo(name, _version(name))
    raise RuntimeUnavailableError(
        f"no TFLite runtime can be imported ({'; '.join(reasons)}): pip install 'slicemq[litert]', or "
        "'slicemq[tflite-runtime]' where the former has no wheel"
    )


def open_interpreter(model: bytes | str | Path, *, runtime: str = "auto", threads: int = 1) -> Interpreter:
    """Load a model from its bytes or from a file and allocate its tensors.

    Raises ModelError for a file that cannot be read or is damaged, UnsupportedOperatorError that names the
    operator which the runtime lacks, RuntimeUnavailableError.
    """
    chosen = load_runtime(runtime)
    name = "model" if isinstance(model, bytes) else str(model)
    _check(model, name)
    module = sys.modules[f"{chosen.name}.interpreter"]
    source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}

    def start() -> Any:
        try:
            with _without_greeting():
                native = module.Interpreter(**source, num_threads=max(1, threads))
                native.allocate_tensors()
                return native
        except _FAILURES as error:
            raise _load_error(error, chosen, name) from error

    return Interpreter(start, chosen, name, None if isinstance(model, bytes) else Path(model))


def _check(model: bytes | str | Path, name: str) -> None:
    if isinstance(model, bytes):
        check_model(model, name)
        return
    try:
        with (
            open(model, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            check_model(view, name)
    except OSError as error:
        raise ModelError(f"{name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{name}: not a TFLite model: the file is empty") from error


def _load_error(error: Exception, runtime: RuntimeInfo, name: str) -> ModelError:
    text = str(error)
    for pattern in _LACKING:
        found = pattern.search(text)
        if found:
            operator = found["op"]
            version = found.groupdict().get("version")
            known = f"operator {operator}" + (f" in version {version}" if version else "")
            return UnsupportedOperatorError(f"{name}: {runtime.name} {runtime.version} lacks {known}")
    return ModelError(f"{name}: {runtime.name} {runtime.version} cannot load it: {_first_line(error)}")


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Keep the runtime's first `INFO:` lines off standard error; everything else that comes is passed on.

    They are written by C++ code straight to file descriptor 2, once in a process's life.
    """
    global _greeted
    with _stderr_lock:
        if _greeted or not hasattr(os, "memfd_create"):
            yield
            return
        _greeted = True
        saved, caught = os.dup(2), os.memfd_create("slicemq-stderr")
        try:
            os.dup2(caught, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.lseek(caught, 0, os.SEEK_SET)
            with os.fdopen(caught, "rb") as text:
                kept = [line for line in text if not line.startswith(b"INFO:")]
            os.write(saved, b"".join(kept))
            os.close(saved)


def _info(detail: dict[str, Any]) -> TensorInfo:
    dtype = np.dtype(detail["dtype"])
    name = "string" if dtype.kind in "SUO" else dtype.name
    return TensorInfo(str(detail["name"]), name, tuple(int(size) for size in detail["shape"]))


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS[name])
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
