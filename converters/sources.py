"""Model files of any origin -> one .tflite: Keras, SavedModel, ONNX, PyTorch and .tflite behind one seam.

TensorFlow and its like run only in a child process (`converters.children`), of any interpreter that has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from converters import schema
from converters.calibration import DEFAULT_SAMPLES, calibration_files, read_samples
from converters.child import Child
from converters.graph import Graph, read_graph
from converters.source_kinds import HOW_TO, Kind, source_kind
from slicemq.errors import (
    InputError,
    MissingDependencyError,
    ModelError,
    SliceMQError,
    StoreError,
    UnsupportedOperatorError,
    UsageError,
)
from slicemq.messages import TensorSpec
from slicemq.pixels import NORMALIZATIONS

Quantize = Literal["none", "float16", "dynamic", "int8"]
Io = Literal["int8", "uint8", "float32"]

QUANTIZATIONS: tuple[Quantize, ...] = ("none", "float16", "dynamic", "int8")
IO_DTYPES: tuple[Io, ...] = ("int8", "uint8", "float32")
# What the child may answer instead of a result.
ERRORS: Mapping[str, type[SliceMQError]] = {
    "missing": MissingDependencyError,
    "model": ModelError,
    "operators": UnsupportedOperatorError,
    "store": StoreError,
    "usage": UsageError,
}
# What converts each kind, and the extra that installs it.
_NEEDS: Mapping[Kind, tuple[str, str]] = {
    "keras": ("TensorFlow", "keras"),
    "saved-model": ("TensorFlow", "keras"),
    "onnx": ("onnx2tf", "onnx"),
    "pytorch": ("litert-torch", "torch"),
}


@dataclass(frozen=True)
class Converted:
    """A .tflite that was written.

    size: bytes. graph: None when it cannot be cut, `note` then says why. signature: the SavedModel's that was used.
    samples: calibration samples that were used. converter: who converted it, with version; "" for a copy.
    """

    path: Path
    kind: Kind
    quantize: Quantize
    size: int
    sha256: str
    graph: Graph | None
    note: str = ""
    signature: str = ""
    samples: int = 0
    converter: str = ""


def convert(
    source: Path,
    out: Path,
    *,
    quantize: Quantize = "none",
    calibration: Path | None = None,
    python: str = sys.executable,
    io: Io = "int8",
    samples: int = DEFAULT_SAMPLES,
    normalize: str | None = None,
    signature: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Converted:
    """Make the .tflite `out` of a model file or SavedModel folder; a .tflite is checked and copied.

    quantize: float16 weights, 8-bit weights (dynamic), or weights and activations of 8 bits (int8), which needs
    `calibration`: a folder of samples (`converters.calibration`), of which `samples` are used; pictures among them
    become floats as `normalize` says. io: dtype of the inputs and outputs of an int8 model. python: the interpreter
    that has TensorFlow. signature: which one of a SavedModel. shapes: of inputs that have open sizes, by name; an
    open batch is 1, other sizes that stay open are resized from the frame.

    `out` appears when it is whole and replaces a file of that name, as `cp` does. Raises UsageError for arguments
    that do not fit together, MissingDependencyError without TensorFlow, ModelError for a model that cannot be read
    or converted (UnsupportedOperatorError names operators that TFLite lacks), InputError for a calibration file,
    StoreError when `out`, or the temporary files, cannot be written.
    """
    _check(quantize, calibration, io, samples, normalize)
    kind = source_kind(source)
    if signature is not None and kind != "saved-model":
        raise UsageError(f"--signature is for a SavedModel, {source} is of kind {kind}")
    if shapes and kind in ("pytorch", "tflite"):
        raise UsageError(f"--shape: the inputs of {source} (kind {kind}) have the sizes that they were made with")
    if kind == "pytorch" and quantize != "none":
        raise UsageError(f"--quantize {quantize}: not for PyTorch programs (.pt2); see {HOW_TO}")
    target = _target(source, out)
    if kind == "tflite":
        if quantize != "none":
            raise UsageError(f"{source} is a finished .tflite and not quantized again: convert what it was made of")
        graph, note = _readable(source, strict=True)
        with _fresh(target) as fresh:
            _copy(source, fresh)
        return _converted(target, kind, quantize, graph, note)
    files = calibration_files(calibration) if calibration is not None else []
    task = {
        "kind": kind,
        "source": os.path.abspath(source),
        "quantize": quantize,
        "io": io,
        "signature": signature,
        "shapes": {name: list(shape) for name, shape in (shapes or {}).items()},
    }
    with _scratch() as scratch, _fresh(target) as fresh:
        answer, used = _in_child(source, python, task, scratch, fresh, files, samples, normalize)
        graph, note = _readable(fresh, strict=False)
    return _converted(
        target,
        kind,
        quantize,
        graph,
        note,
        signature=str(answer.get("signature", "")),
        samples=used,
        converter=str(answer["done"]),
    )


def check_quantization(given: str) -> Quantize:
    """The same word, known to be one of QUANTIZATIONS. Raises UsageError."""
    for word in QUANTIZATIONS:
        if given == word:
            return word
    raise UsageError(f"--quantize: expected {', '.join(QUANTIZATIONS)}, got {given!r}")


def check_io(given: str) -> Io:
    """The same word, known to be one of IO_DTYPES. Raises UsageError."""
    for word in IO_DTYPES:
        if given == word:
            return word
    raise UsageError(f"--io: expected {', '.join(IO_DTYPES)}, got {given!r}")


def _check(quantize: str, calibration: Path | None, io: str, samples: int, normalize: str | None) -> None:
    check_quantization(quantize)
    check_io(io)
    if normalize is not None and normalize not in NORMALIZATIONS:
        raise UsageError(f"--normalize: expected {', '.join(NORMALIZATIONS)}, got {normalize!r}")
    if samples < 1:
        raise UsageError(f"--samples: expected at least 1, got {samples}")
    if quantize == "int8" and calibration is None:
        raise UsageError(
            "--quantize int8 needs --calibration FOLDER: about a hundred typical inputs, as .npy or .npz files or "
            "pictures, from which the ranges of all values are measured"
        )
    if quantize != "int8" and calibration is not None:
        raise UsageError(f"--calibration is for --quantize int8, not for {quantize}")


def _target(source: Path, out: Path) -> Path:
    """Where the file goes: behind symbolic links, never the source. Raises UsageError, StoreError."""
    if out.suffix.lower() != ".tflite":
        raise UsageError(f"{out}: expected the name of a .tflite file for the result")
    target = Path(os.path.realpath(out))
    try:
        if target.exists():
            if target.is_dir() or not stat.S_ISREG(target.stat().st_mode):
                raise UsageError(f"{out}: is no plain file, and is not replaced")
            if source.is_file() and os.path.samefile(source, target):
                raise UsageError(f"{out}: is the source itself")
        if source.is_dir() and target.is_relative_to(os.path.realpath(source)):
            raise UsageError(f"{out}: lies inside the source")
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error.strerror or error}") from error
    return target


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """An empty folder among the temporary files, removed at the end. Raises StoreError."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="slicemq-convert-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(f"temporary files cannot be written: {error}") from error
    with folder as name:
        yield Path(name)


@contextlib.contextmanager
def _fresh(target: Path) -> Iterator[Path]:
    """A new file beside `target` that takes its name at the end, unless an error comes first."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}") from error
    fresh = Path(name)
    try:
        yield fresh
        os.fchmod(handle, 0o666 & ~_umask())
        os.fsync(handle)
        fresh.replace(target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        os.close(handle)
        fresh.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise StoreError(f"{source}: cannot be copied: {error.strerror or error}") from error


def _in_child(
    source: Path,
    python: str,
    task: dict[str, Any],
    scratch: Path,
    target: Path,
    files: Sequence[Path],
    most: int,
    normalize: str | None,
) -> tuple[dict[str, Any], int]:
    """Let the child write `target`; returns what it said, and the number of calibration samples."""
    used = 0
    package, extra = _NEEDS[task["kind"]]
    module = f"converters.children.{'torch' if task['kind'] == 'pytorch' else 'tensorflow'}_convert"
    try:
        with Child(python, module, ERRORS, f"converting with {package}") as child:
            answer = child.ask({**task, "scratch": str(scratch), "target": str(target)})
            if task["quantize"] == "int8":
                names = _store_samples(scratch, _specs(answer), files, most, normalize)
                used = len(names)
                done = child.ask({"samples": names})
            else:
                done = answer if "done" in answer else child.hear()
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"converting {source} needs {package}, and in {python} {error}: pip install 'slicemq[{extra}]', or "
            "name an interpreter that has it with --python"
        ) from error
    except (ModelError, UsageError) as error:
        text = str(error)
        raise type(error)(text if text.startswith("--") else f"{source}: {text}") from error
    return {**answer, **done}, used


def _specs(answer: Mapping[str, Any]) -> list[TensorSpec]:
    return [
        TensorSpec(index, str(row["name"]), str(row["dtype"]), tuple(map(int, row["shape"])))
        for index, row in enumerate(answer["inputs"])
    ]


def _store_samples(
    scratch: Path, inputs: Sequence[TensorSpec], files: Sequence[Path], most: int, normalize: str | None
) -> list[str]:
    """Write each sample as an .npz file whose arrays are numbered as the inputs are."""
    names = []
    try:
        for number, sample in enumerate(read_samples(files, inputs, most, normalize)):
            path = scratch / f"sample-{number}.npz"
            np.savez(path, **{str(i): sample[spec.name] for i, spec in enumerate(inputs)})
            names.append(str(path))
    except OSError as error:
        raise StoreError(f"{scratch.parent}: cannot be written: {error.strerror or error}") from error
    if not names:
        raise InputError("the calibration files hold no samples, only arrays of length 0")
    return names


def _readable(path: Path, *, strict: bool) -> tuple[Graph | None, str]:
    """The graph of a .tflite, or None and why it cannot be cut; `strict`: a damaged one raises ModelError."""
    data = schema.open_model(path)
    try:
        return read_graph(data), ""
    except ModelError as error:
        if strict and type(error) is ModelError:
            raise ModelError(f"{path}: {error}") from error
        return None, str(error)


def _converted(
    target: Path, kind: Kind, quantize: Quantize, graph: Graph | None, note: str, **more: Any
) -> Converted:
    if graph is not None:
        return Converted(target, kind, quantize, graph.size, graph.sha256, graph, note, **more)
    digest = hashlib.sha256()
    with target.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return Converted(target, kind, quantize, target.stat().st_size, digest.hexdigest(), None, note, **more)
