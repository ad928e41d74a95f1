"""The calibration set of a full int8 conversion: a folder of arrays or pictures becomes samples of the inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.pictures import SUFFIXES, image_to_input, open_image
from slicemq.errors import InputError, UsageError
from slicemq.messages import TensorSpec
from slicemq.pixels import check_normalization
from slicemq.specs import describe

Sample = dict[str, npt.NDArray[Any]]

DEFAULT_SAMPLES = 100
_KINDS = (".npy", ".npz", *SUFFIXES)


def calibration_files(folder: Path) -> list[Path]:
    """The .npy, .npz and picture files of a folder and its subfolders, by name. Raises UsageError without any.

    Other files and those whose name begins with a dot are left out.
    """
    if not folder.is_dir():
        raise UsageError(f"--calibration {folder}: no such folder")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _KINDS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not files:
        raise UsageError(f"--calibration {folder}: holds none of {', '.join(f'*{kind}' for kind in _KINDS)}")
    return files


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. count - 1, evenly apart, from 0 on."""
    taken = min(count, most)
    return [i * count // taken for i in range(taken)]


def read_samples(
    files: Sequence[Path], inputs: Sequence[TensorSpec], most: int, normalize: str | None = None
) -> Iterator[Sample]:
    """At most `most` samples, the same ones in the same order for the same files.

    files: each a picture or an .npy file for a model with one input, or an .npz file with one array for each input
    by name. An array is one sample (of the input's shape, with or without the batch of 1) or a batch of them
    ([n, ...]). Where there are more files than samples, files evenly apart are taken, else samples evenly apart of
    each file. inputs: float inputs take every float, integers every integer that fits. normalize: how pixels become
    floats (`converters.pictures`). Raises InputError that names the file.
    """
    chosen = [files[i] for i in spread(len(files), most)]
    for number, file in enumerate(chosen):
        share = most // len(chosen) + (number < most % len(chosen))
        try:
            yield from _of_file(file, inputs, share, normalize)
        except InputError as error:
            text = str(error)
            raise InputError(text if text.startswith(f"{file}: ") else f"{file}: {text}") from error


def _of_file(file: Path, inputs: Sequence[TensorSpec], most: int, normalize: str | None) -> Iterator[Sample]:
    suffix = file.suffix.lower()
    if suffix != ".npz" and len(inputs) != 1:
        raise InputError(f"the model has {len(inputs)} inputs, expected .npz files with {_names(inputs)}")
    if suffix in SUFFIXES:
        check_normalization(normalize, inputs[0])
        yield {inputs[0].name: image_to_input(open_image(file), inputs[0], normalize)[0]}
        return
    arrays = _load_npz(file, inputs) if suffix == ".npz" else {inputs[0].name: _load_npy(file)}
    batches = {spec.name: _batch(arrays[spec.name], spec) for spec in inputs}
    counts = {name: len(batch) for name, batch in batches.items()}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise InputError(f"expected as many samples of each input, found {told}")
    for row in spread(next(iter(counts.values())), most):
        yield {spec.name: _sample(batches[spec.name][row], spec) for spec in inputs}


def _names(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in inputs)


def _load_npy(file: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise InputError(f"cannot be read as numpy file: {_reason(error)}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError("expected one array, it is an .npz file by content")
    return array


def _load_npz(file: Path, inputs: Sequence[TensorSpec]) -> Mapping[str, npt.NDArray[Any]]:
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise InputError("expected arrays by name, it is an .npy file by content")
        with loaded:
            if sorted(loaded.files) != sorted(spec.name for spec in inputs):
                found = ", ".join(map(repr, loaded.files)) or "none"
                raise InputError(f"expected the arrays {_names(inputs)}, found {found}")
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise InputError(f"cannot be read as numpy file: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or "it ends too early"


def _batch(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """The array as samples [n, *shape of the input]; n may be 0."""
    want = np.dtype(spec.dtype)
    floats = array.dtype.kind == "f" and want.kind == "f"
    integers = array.dtype.kind in "iu" and want.kind in "iu"
    if array.dtype != want and not floats and not integers:
        raise _unfit(array, spec)
    if _fits(array.shape, spec.shape):
        return array[None]
    if spec.shape and spec.shape[0] == 1:
        if _fits(array.shape, spec.shape[1:]):
            return array[None, None]
        if array.ndim and _fits(array.shape[1:], spec.shape[1:]):
            return array[:, None]
    if array.ndim and _fits(array.shape[1:], spec.shape):
        return array
    raise _unfit(array, spec)


def _fits(shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return len(shape) == len(want) and all(w in (-1, s) for s, w in zip(shape, want, strict=True))


def _unfit(array: npt.NDArray[Any], spec: TensorSpec) -> InputError:
    got = describe(array.dtype.name, array.shape)
    return InputError(
        f"input {spec.name!r}: expected {describe(spec.dtype, spec.shape)} or a batch of it, got {got}"
    )


def _sample(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    want = np.dtype(spec.dtype)
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(array).astype(want).reshape(array.shape)
    if want.kind == "f" and not np.isfinite(made).all():
        raise InputError(f"input {spec.name!r}: holds values that are not finite in {spec.dtype}")
    if want.kind in "iu" and not np.array_equal(made, array):
        raise InputError(f"input {spec.name!r}: holds values that {spec.dtype} does not")
    return made
