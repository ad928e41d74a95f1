"""Frames from files and from a random generator, results into .npz files, and what is said about an output."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.pictures import SUFFIXES, image_to_input, open_image
from slicemq.errors import InputError, StoreError
from slicemq.messages import TensorSpec
from slicemq.specs import Arrays, check_inputs, tensor_keys

_TOP = 5


@dataclass(frozen=True)
class FileFrame:
    """One frame read from `file`: arrays by whole-model index; `note` says how a picture became a tensor."""

    file: Path
    arrays: Arrays
    note: str


def read_frame(file: Path, specs: Sequence[TensorSpec], normalize: str | None = None) -> FileFrame:
    """Read one frame: .npy or a picture for a model with one input, .npz with one array for each input.

    Raises InputError that names the file, the tensor, and what was expected.
    """
    suffix = file.suffix.lower()
    note = ""
    try:
        if suffix == ".npz":
            return FileFrame(file, check_inputs(specs, read_npz(file)), note)
        if suffix not in (".npy", *SUFFIXES):
            raise InputError(f"expected .npy, .npz, {', '.join(SUFFIXES)}, got {suffix or 'no suffix'!r}")
        if len(specs) != 1:
            keys = ", ".join(map(repr, tensor_keys(specs).values()))
            raise InputError(f"the model has {len(specs)} inputs, expected one .npz file with the arrays {keys}")
        if suffix == ".npy":
            array = _load(file)
            if not isinstance(array, np.ndarray):
                raise InputError("expected one array, it is an .npz file by content")
        else:
            array, note = image_to_input(open_image(file), specs[0], normalize)
        return FileFrame(file, check_inputs(specs, array), note)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(f"{file}: ") else f"{file}: {text}") from error


def _load(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        reason = getattr(error, "strerror", None) or _damage(file) or str(error) or "it ends too early"
        raise InputError(f"{file}: cannot be read as numpy file: {reason}") from error


def _damage(file: Path) -> str:
    """What is wrong with a file's first bytes; empty where they are those of a numpy file."""
    with file.open("rb") as opened:
        first = opened.read(6)
    # numpy takes what begins otherwise for a pickle, and proposes to load that.
    return (
        "" if first.startswith((b"\x93NUMPY", b"PK")) else f"it is no .npy or .npz file, it begins with {first!r}"
    )


def read_npz(file: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name. Raises InputError."""
    loaded = _load(file)
    if isinstance(loaded, np.ndarray):
        raise InputError("expected several arrays, it is an .npy file by content")
    try:
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise InputError(f"cannot be read as numpy file: {error}") from error


def random_frames(specs: Sequence[TensorSpec], count: int, seed: int) -> list[Arrays]:
    """`count` frames that are the same for the same seed; unknown sizes become 1.

    Floats lie in -1 .. 1, 8-bit integers take all values; wider integers are 0 or 1, because they are mostly
    indices or lengths, which must exist.
    """
    generator = np.random.default_rng(seed)
    return [{spec.index: _random(generator, spec) for spec in specs} for _ in range(count)]


def _random(generator: np.random.Generator, spec: TensorSpec) -> npt.NDArray[Any]:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        raise InputError(f"input {spec.name!r}: there are no random values of dtype {spec.dtype}") from None
    if dtype.kind in "fc":
        return np.asarray(generator.uniform(-1, 1, shape)).astype(dtype)
    if dtype in (np.int8, np.uint8):
        bounds = np.iinfo(dtype)
        return np.asarray(generator.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True))
    return np.asarray(generator.integers(0, 2, shape)).astype(dtype)


def write_npz(file: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an .npz file at once: the old one stays until the new one is complete. Raises StoreError."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(handle, "wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                # Not numpy.savez: it takes the names as keyword arguments, and a tensor may be called `file`.
                for key, array in arrays.items():
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                        np.save(member, np.asanyarray(array), allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, file)
    except (OSError, ValueError) as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise StoreError(f"{file}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def summary(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    """An output in numbers: shape, dtype, least, mean and greatest value; the top five of a vector.

    A vector has one size that is not 1. Values that are not finite are None (JSON has no word for them).
    """
    body: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    if array.size == 0 or array.dtype.kind == "c":
        return body
    values = array.astype(np.float64).reshape(-1)
    body |= {"min": _number(values.min()), "mean": _number(values.mean()), "max": _number(values.max())}
    if sum(size != 1 for size in array.shape) == 1:
        # A stable order: the first of equal values comes first; NaN comes last.
        order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:_TOP]
        body["top"] = [{"index": int(i), "value": _number(values[i])} for i in order]
    return body


def summary_text(body: Mapping[str, Any]) -> str:
    """One line of what `summary` found."""
    head = f"{body['name']}  {body['dtype']} {body['shape']}"
    if "top" in body:
        tops = ", ".join(f"{row['index']}: {_shown(row['value'])}" for row in body["top"])
        return f"{head}  top {len(body['top'])}: {tops}"
    if "min" not in body:
        return head
    if body["min"] == body["max"] and math.prod(body["shape"]) == 1:
        return f"{head}  {_shown(body['min'])}"
    return f"{head}  min {_shown(body['min'])}, mean {_shown(body['mean'])}, max {_shown(body['max'])}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"
