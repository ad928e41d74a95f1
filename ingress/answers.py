"""What devices get back: JSON, .npy or .npz, and JSON for every error. PURE."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

OutputKind = Literal["json", "npy"]
OUTPUT_KINDS: tuple[OutputKind, ...] = ("json", "npy")
_MOST_REASON = 500
# Significant digits with which every value of the type reads back to the same bits.
_DIGITS = {"float16": 5, "float32": 9, "float64": 17}


class TooMuch(ValueError):  # noqa: N818 - a reason, which becomes an answer
    """More values than a JSON answer may have."""


def json_answer(head: Mapping[str, Any], outputs: Mapping[str, npt.NDArray[Any]], most_values: int) -> bytes:
    """`head` and `outputs` as one JSON object: {..., "outputs": {name: {"dtype", "shape", "data": [row by row]}}}.

    Floats have the digits that give the same bits when they are read; what is not finite is null, since JSON has no
    word for it; complex numbers are pairs. Raises TooMuch above `most_values` values.
    """
    count = sum(array.size for array in outputs.values())
    if count > most_values:
        raise TooMuch(f"{count} values, JSON answers have at most {most_values}: use --out npy")
    parts = [
        f'{json.dumps(name)}: {{"dtype": "{a.dtype.name}", "shape": {list(a.shape)}, "data": [{_data(a)}]}}'
        for name, a in outputs.items()
    ]
    start = json.dumps(dict(head), allow_nan=False)[:-1]
    return f'{start}{", " if head else ""}"outputs": {{{", ".join(parts)}}}}}'.encode()


def npy_answer(outputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The one output as .npy; several as .npz (uncompressed), by name."""
    stream = io.BytesIO()
    if len(outputs) == 1:
        (array,) = outputs.values()
        np.save(stream, array, allow_pickle=False)
        return stream.getvalue()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, array, allow_pickle=False)
    return stream.getvalue()


def error_answer(head: Mapping[str, Any], word: str, reason: str) -> bytes:
    """`head`, `error` (one word of the reference) and `reason` (for people) as JSON."""
    return json.dumps({**head, "error": word, "reason": reason[:_MOST_REASON]}, allow_nan=False).encode()


def _data(array: npt.NDArray[Any]) -> str:
    flat = array.reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(f"f{flat.dtype.itemsize // 2}")
    values = flat.tolist()
    digits = _DIGITS.get(flat.dtype.name)
    if digits is None:
        return ", ".join(map(json.dumps, values)) if flat.dtype.kind == "b" else ", ".join(map(str, values))
    form = f"%.{digits}g"
    if bool(np.isfinite(flat).all()) and not bool((np.signbit(flat) & (flat == 0)).any()):
        return ", ".join([form % value for value in values])
    return ", ".join([_odd(form, value) for value in values])


def _odd(form: str, value: float) -> str:
    if not math.isfinite(value):
        return "null"
    # Readers take -0 for a whole number, which has no sign.
    return "-0.0" if value == 0 and math.copysign(1, value) < 0 else form % value
