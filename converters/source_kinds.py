"""What a model file is, by its name and by the first of its bytes."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from converters import schema
from slicemq.errors import ModelError

Kind = Literal["keras", "saved-model", "onnx", "pytorch", "tflite"]

HOW_TO = "docs/how-to/convert-models.md"
# Suffix -> kind and content (a key of _FOUND; "" has no mark of its own).
_SUFFIXES: Mapping[str, tuple[Kind, str]] = {
    ".keras": ("keras", "Keras"),
    ".h5": ("keras", "HDF5"),
    ".hdf5": ("keras", "HDF5"),
    ".onnx": ("onnx", ""),
    ".pt2": ("pytorch", "zip"),
    ".tflite": ("tflite", "TFLite"),
    ".lite": ("tflite", "TFLite"),
}
_ELSEWHERE = {
    ".pt": "holds weights or pickled code, no program: export it to .pt2 where its code is",
    ".pth": "holds weights or pickled code, no program: export it to .pt2 where its code is",
    ".pb": "is one file of a SavedModel, or a frozen graph of TensorFlow 1: give the SavedModel's folder",
}
_FOUND = {
    "": "something else",
    "empty": "an empty file",
    "HDF5": "an HDF5 file (.h5)",
    "Keras": "a Keras archive (.keras)",
    "TFLite": "a TFLite flatbuffer (.tflite)",
    "zip": "a zip archive",
}
_HDF5 = b"\x89HDF\r\n\x1a\n"


def source_kind(source: Path) -> Kind:
    """What `source` is, by its name and content. Raises ModelError that says what was expected."""
    if source.is_dir():
        if any((source / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
            return "saved-model"
        raise ModelError(f"{source}: a folder without saved_model.pb is no SavedModel")
    if source.exists() and not source.is_file():
        raise ModelError(f"{source}: no plain file")
    suffix = source.suffix.lower()
    content = _content(source)
    if suffix in _ELSEWHERE:
        raise ModelError(f"{source}: {_ELSEWHERE[suffix]}; see {HOW_TO}")
    if suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise ModelError(f"{source}: expected {known} or a SavedModel folder, got {suffix or 'no suffix'!r}")
    kind, expected = _SUFFIXES[suffix]
    if content != expected:
        wanted = _FOUND[expected] if expected else "an ONNX model"
        raise ModelError(f"{source}: not what its name says: expected {wanted}, found {_FOUND[content]}")
    return kind


def _content(source: Path) -> str:
    """A key of _FOUND. Raises ModelError when the file cannot be read."""
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
