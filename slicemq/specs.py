"""Tensor specifications: their digest, and the check of arrays against them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from slicemq.errors import InputError
from slicemq.messages import TensorSpec

Arrays: TypeAlias = "dict[int, npt.NDArray[Any]]"
Inputs: TypeAlias = (
    "npt.NDArray[Any] | list[npt.NDArray[Any]] | tuple[npt.NDArray[Any], ...]"
    " | Mapping[str, npt.NDArray[Any]] | Mapping[int, npt.NDArray[Any]]"
)


def spec_digest(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """SHA-256 in hex over names, dtypes and shapes, in order: equal exactly when a client may stay.

    The text that is hashed is the JSON array `[[[name,dtype,[shape...]],...],[...]]` in ASCII without spaces:
    inputs, then outputs. Where a name is not unique, `tensor_keys` says it apart by the index.
    """
    rows = [
        [[key, s.dtype, list(s.shape)] for s, key in ((s, tensor_keys(specs)[s.index]) for s in specs)]
        for specs in (inputs, outputs)
    ]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":"), ensure_ascii=True).encode()).hexdigest()


def tensor_keys(specs: Sequence[TensorSpec]) -> dict[int, str]:
    """A unique key for each tensor, by index: its name, or `<name>@<index>` where the name is not unique."""
    names = Counter(name for _, name in {(spec.index, spec.name) for spec in specs})
    return {s.index: s.name if names[s.name] == 1 else f"{s.name}@{s.index}" for s in specs}


def matches(spec: TensorSpec, array: npt.NDArray[Any]) -> bool:
    """Whether dtype and shape are what `spec` says; -1 in the specification fits every size."""
    return fits(spec, array.dtype.name, array.shape)


def fits(spec: TensorSpec, dtype: str, shape: Sequence[int]) -> bool:
    """`matches` for a tensor of which no more is known than dtype (numpy's name) and shape."""
    return (
        dtype == spec.dtype
        and len(shape) == len(spec.shape)
        and all(want in (-1, got) for want, got in zip(spec.shape, shape, strict=True))
    )


def describe(dtype: str, shape: Sequence[int]) -> str:
    """`float32 [1, ?, 3]`."""
    return f"{dtype} [{', '.join('?' if size == -1 else str(size) for size in shape)}]"


def check_inputs(specs: Sequence[TensorSpec], inputs: Inputs) -> dict[int, npt.NDArray[Any]]:
    """The arrays by whole-model index, each of exactly the dtype and shape that `specs` asks for.

    `inputs` is one array (a model with one input), a list or tuple in the model's order, or a mapping from name or
    index. Arrays come back row-major and in native byte order, and are never cast; they may share memory
    with what was given. Raises InputError that names the tensor, what was expected and what was given.
    """
    wanted = {spec.index: spec for spec in specs}
    given = _by_index(specs, inputs)
    missing = [wanted[index] for index in wanted if index not in given]
    if missing:
        raise InputError(f"missing input {_title(missing[0])}: expected {_expected(missing[0])}")
    return {index: _checked(spec, given[index]) for index, spec in wanted.items()}


def _by_index(specs: Sequence[TensorSpec], inputs: Inputs) -> dict[int, Any]:
    if isinstance(inputs, np.ndarray):
        if len(specs) != 1:
            raise InputError(f"one array given, the model has {len(specs)} inputs: {_listing(specs)}")
        return {specs[0].index: inputs}
    if isinstance(inputs, Mapping):
        return {_find(specs, key): array for key, array in inputs.items()}
    if not isinstance(inputs, (list, tuple)):
        raise InputError(
            f"inputs: expected a numpy array, a list, tuple or mapping of them, got {type(inputs).__name__}"
        )
    if len(inputs) != len(specs):
        raise InputError(f"{len(inputs)} arrays given, the model has {len(specs)} inputs: {_listing(specs)}")
    return {spec.index: array for spec, array in zip(specs, inputs, strict=True)}


def _find(specs: Sequence[TensorSpec], key: str | int) -> int:
    keys = tensor_keys(specs)
    found = {index for index, unique in keys.items() if key in (index, unique)}
    if len(found) == 1:
        return found.pop()
    if any(spec.name == key for spec in specs):
        raise InputError(f"input name {key!r} stands for several tensors, expected one of {_listing(specs)}")
    raise InputError(f"no input {key!r}, expected one of {_listing(specs)}")


def _checked(spec: TensorSpec, array: Any) -> npt.NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"input {_title(spec)}: expected a numpy array, {_expected(spec)}, got {type(array).__name__}"
        )
    if not matches(spec, array):
        given = describe(array.dtype.name, array.shape)
        raise InputError(f"input {_title(spec)}: expected {_expected(spec)}, got {given}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _title(spec: TensorSpec) -> str:
    return f"{spec.name!r} (tensor {spec.index})"


def _expected(spec: TensorSpec) -> str:
    return describe(spec.dtype, spec.shape)


def _listing(specs: Sequence[TensorSpec]) -> str:
    keys = tensor_keys(specs)
    return "; ".join(f"{keys[spec.index]!r} {_expected(spec)}" for spec in specs)
