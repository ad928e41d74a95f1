"""Model files of any origin -> one .tflite: Keras (.keras, .h5), SavedModel folders and .tflite behind one seam.

TensorFlow runs only in a child process (`converters.tensorflow_child`), of any interpreter that has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from converters import schema
from converters.calibration import DEFAULT_SAMPLES, calibration_files, read_samples
from converters.child import Child
from converters.graph import Graph, read_graph
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

Kind = Literal["keras", "saved-model", "tflite"]
Quantize = Literal["none", "float16", "dynamic", "int8"]
Io = Literal["int8", "uint8", "float32"]

QUANTIZATIONS: tuple[Quantize, ...] = ("none", "float16", "dynamic", "int8")
IO_DTYPES: tuple[Io, ...] = ("int8", "uint8", "float32")
# What the child may answer instead of a result.
ERRORS: Mapping[str, type[SliceMQError]] = {
    "missing": MissingDependencyError,
    "model": ModelError,
    "operators": UnsupportedOperatorError,
    "usage": UsageError,
}
_CHILD = Path(__file__).with_name("tensorflow_child.py")
_KERAS = (".keras", ".h5", ".hdf5")
_ELSEWHERE = {".onnx": "ONNX", ".pt": "PyTorch", ".pth": "PyTorch", ".pt2": "PyTorch", ".pb": "frozen graph"}
HOW_TO = "docs/how-to/convert-models.md"
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Converted:
    """A .tflite that was written.

    size: bytes. graph: None when it cannot be cut, `note` then says why. signature: the SavedModel's that was used.
    samples: calibration samples used, of `files` files. tensorflow: the version that converted it, "" for a copy.
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
    files: int = 0
    tensorflow: str = ""


def source_kind(source: Path) -> Kind:
    """What `source` is, by its name and content. Raises ModelError that says what was expected."""
    if source.is_dir():
        if any((source / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
            return "saved-model"
        raise ModelError(f"{source}: a folder without saved_model.pb is no SavedModel")
    suffix = source.suffix.lower()
    content = _content(source)
    if suffix in (".tflite", ".lite"):
        expected: str = "TFLite"
    elif suffix in _KERAS:
        expected = "Keras" if suffix == ".keras" else "HDF5"
    elif suffix in _ELSEWHERE:
        raise ModelError(f"{source}: {_ELSEWHERE[suffix]} is converted in steps of its own: see {HOW_TO}")
    else:
        known = ".keras, .h5, .hdf5, .tflite"
        raise ModelError(f"{source}: expected {known} or a SavedModel folder, got {suffix or 'no suffix'!r}")
    if content != expected:
        raise ModelError(f"{source}: not what its name says: expected {_NAMED[expected]}, found {_NAMED[content]}")
    return "tflite" if expected == "TFLite" else "keras"


_NAMED = {
    "": "something else",
    "empty": "an empty file",
    "HDF5": "an HDF5 file (.h5)",
    "Keras": "a Keras archive (.keras)",
    "TFLite": "a TFLite flatbuffer (.tflite)",
    "zip": "a zip file without config.json",
}


def _content(source: Path) -> str:
    """A key of _NAMED. Raises ModelError when the file cannot be read."""
    try:
        with source.open("rb") as file:
            head = file.read(8)
            if head == _HDF5:
                return "HDF5"
            if head[4:8] == schema.IDENTIFIER:
                return "TFLite"
            if head[:4] == b"PK\x03\x04":
                with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
                    return "Keras" if "config.json" in archive.namelist() else "zip"
                return "zip"
            return "" if head else "empty"
    except OSError as error:
        raise ModelError(f"{source}: cannot read the model: {error.strerror or error}") from error


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
    StoreError when `out` cannot be written.
    """
    _check(quantize, calibration, io, samples)
    kind = source_kind(source)
    target = _target(source, out)
    if kind == "tflite":
        if quantize != "none" or signature is not None or shapes:
            raise UsageError(
                f"{source} is a finished .tflite, which is copied as it is: quantize the Keras model or SavedModel "
                "that it was made of"
            )
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
    with tempfile.TemporaryDirectory(prefix="slicemq-convert-") as scratch, _fresh(target) as fresh:
        answer, used = _in_child(source, python, task, Path(scratch), fresh, files, samples, normalize)
        graph, note = _readable(fresh, strict=False)
    return _converted(
        target,
        kind,
        quantize,
        graph,
        note,
        signature=str(answer["signature"]),
        samples=used,
        files=min(len(files), samples),
        tensorflow=str(answer["tensorflow"]),
    )


def _check(quantize: str, calibration: Path | None, io: str, samples: int) -> None:
    if quantize not in QUANTIZATIONS:
        raise UsageError(f"--quantize: expected {', '.join(QUANTIZATIONS)}, got {quantize!r}")
    if io not in IO_DTYPES:
        raise UsageError(f"--io: expected {', '.join(IO_DTYPES)}, got {io!r}")
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
    try:
        with Child(python, _CHILD, ERRORS, f"{source}: converting with TensorFlow") as child:
            answer = child.ask({**task, "scratch": str(scratch), "target": str(target)})
            if task["quantize"] == "int8":
                names = _store_samples(scratch, _specs(answer), files, most, normalize)
                used = len(names)
                done = child.ask({"samples": names})
            else:
                done = child.hear()
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"converting {source} needs TensorFlow in {python}: {error}; pip install 'slicemq[keras]', or name "
            "another interpreter with --python"
        ) from error
    except (ModelError, UsageError) as error:
        raise type(error)(f"{source}: {error}" if str(source) not in str(error) else str(error)) from error
    return {**answer, **done["done"]}, used


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
        raise StoreError(f"{scratch}: cannot be written: {error.strerror or error}") from error
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
