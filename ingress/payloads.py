"""Devices' payloads as a model's inputs: raw tensor bytes, .npy, .npz, JPEG, PNG. Every byte is a stranger's.

Nothing is unpickled, and every size is known to be right before memory is taken for it.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from ingress.pictures import PictureRules, is_picture, read_picture
from slicemq.errors import InputError
from slicemq.messages import TensorSpec
from slicemq.specs import Arrays, check_inputs, describe, fits, tensor_keys

InputKind = Literal["auto", "raw", "npy", "image"]
INPUT_KINDS: tuple[InputKind, ...] = ("auto", "raw", "npy", "image")
_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_MAX_NPY_HEADER = 10_000
_MOST_MEMBERS = 256


@dataclass(frozen=True)
class InputRules:
    """What payloads may be, and how pictures are read."""

    kind: InputKind = "auto"
    picture: PictureRules = field(default_factory=PictureRules)


def read_payload(
    payload: bytes, specs: Sequence[TensorSpec], rules: InputRules
) -> tuple[Arrays, dict[str, str | int]]:
    """The inputs by whole-model index, and what the payload was: `format`, of a picture `width` and `height`.

    `npy` takes .npz too, which has an array for each input by name; everything else is for models with one
    input. With `auto` a payload of exactly the input's size is raw, else its first bytes say what it is. Raises
    InputError that says what was expected.
    """
    kind = rules.kind
    if kind == "auto":
        kind = _kind(payload, specs)
    if kind == "npy" and payload.startswith(_ZIP):
        return check_inputs(specs, _read_npz(payload, specs)), {"format": "npz"}
    if len(specs) != 1:
        names = ", ".join(map(repr, tensor_keys(specs).values()))
        raise InputError(f"the model has {len(specs)} inputs ({names}): expected an .npz with an array for each")
    spec = specs[0]
    shown: dict[str, str | int] = {"format": kind}
    if kind == "raw":
        array = _read_raw(payload, spec, "" if rules.kind == "raw" else "no JPEG, PNG or .npy; ")
    elif kind == "npy":
        array = _read_npy(payload, spec)
    else:
        array, shown = read_picture(payload, spec, rules.picture)
    return check_inputs(specs, array), shown


def _kind(payload: bytes, specs: Sequence[TensorSpec]) -> InputKind:
    if len(specs) == 1 and _raw_shape(specs[0], len(payload)) is not None and not _unknown(specs[0]):
        return "raw"
    if payload.startswith((_NPY, _ZIP)):
        return "npy"
    return "image" if is_picture(payload) else "raw"


def _unknown(spec: TensorSpec) -> int:
    return sum(size == -1 for size in spec.shape)


def _raw_shape(spec: TensorSpec, nbytes: int) -> tuple[int, ...] | None:
    """The shape that so many bytes have; None when it is no whole one, or more than one size is unknown."""
    known = math.prod(size for size in spec.shape if size != -1) * np.dtype(spec.dtype).itemsize
    if _unknown(spec) == 0:
        return spec.shape if nbytes == known else None
    if _unknown(spec) > 1 or known == 0 or nbytes % known:
        return None
    return tuple(nbytes // known if size == -1 else size for size in spec.shape)


def _read_raw(payload: bytes, spec: TensorSpec, before: str) -> npt.NDArray[Any]:
    shape = _raw_shape(spec, len(payload))
    if shape is None:
        wanted = describe(spec.dtype, spec.shape)
        size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        expected = f"{size} bytes of {wanted}" if not _unknown(spec) else f"whole rows of {wanted}, or .npy"
        raise InputError(
            f"{before}raw payload of {len(payload)} bytes, expected {expected} (little-endian, row by row)"
        )
    if spec.dtype == "bool" and any(byte > 1 for byte in payload):
        raise InputError("raw payload: expected 0 or 1 in each byte of a bool tensor")
    return np.frombuffer(payload, np.dtype(spec.dtype).newbyteorder("<")).reshape(shape)


def _read_npy(payload: bytes, spec: TensorSpec) -> npt.NDArray[Any]:
    reader: Any = npy_format
    stream = io.BytesIO(payload)
    try:
        version = reader.read_magic(stream)
        width = {(1, 0): 2, (2, 0): 4}[version]
        if int.from_bytes(payload[8 : 8 + width], "little") > _MAX_NPY_HEADER:
            raise InputError(f".npy with a header of more than {_MAX_NPY_HEADER} bytes")
        read = reader.read_array_header_1_0 if width == 2 else reader.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"not a readable .npy: {str(error)[:200]}") from error
    if dtype.hasobject or dtype.names is not None or not fits(spec, dtype.name, shape):
        given = describe(dtype.name, shape) if len(shape) <= 16 else f"{len(shape)} dimensions"
        raise InputError(f".npy of {given[:200]}, expected {describe(spec.dtype, spec.shape)}")
    body = memoryview(payload)[stream.tell() :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise InputError(
            f".npy with {len(body)} bytes of data, its header says {math.prod(shape) * dtype.itemsize}"
        )
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def _read_npz(payload: bytes, specs: Sequence[TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    wanted = {f"{key}.npy": spec for spec, key in zip(specs, tensor_keys(specs).values(), strict=True)}
    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            members = archive.infolist()
            if len(members) > _MOST_MEMBERS:
                raise InputError(f".npz of {len(members)} arrays, expected at most {_MOST_MEMBERS}")
            for member in members:
                spec = wanted.get(member.filename)
                if spec is None:
                    raise InputError(
                        f".npz with {member.filename[:80]!r}, expected {', '.join(map(repr, wanted))[:400]}"
                    )
                most = len(payload) * 20 if _unknown(spec) else _npy_most(spec)
                with archive.open(member) as stream:
                    data = stream.read(most + 1)
                if len(data) > most:
                    raise InputError(f".npz: {member.filename!r} has more than {most} bytes")
                found[member.filename.removesuffix(".npy")] = _read_npy(data, spec)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"not a readable .npz: {str(error)[:200]}") from error
    return found


def _npy_most(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize + _MAX_NPY_HEADER + 16
