"""Strict reading of TOML into frozen dataclasses: unknown keys, missing fields and wrong types are errors."""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from emulator.units import wrong
from slicemq.errors import ConfigError

# The same module: the standard library has it since Python 3.11.
_toml_reader: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def value(read: Any, default: Any = MISSING) -> Any:
    """A field of a dataclass that a file may set.

    `read`: a reader of emulator.units, or a list of one dataclass (an array of tables). Without a default the file
    must set it. A table in a table is `field(default_factory=KIND, metadata={"read": KIND})`.
    """
    metadata = {"read": read}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def read_document(kind: Any, file: Path) -> Any:
    """The dataclass `kind` from a TOML file. Raises ConfigError: file, table, field, what was expected."""
    try:
        body = _toml_reader.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    return _read_table(kind, body, str(file), str(file), "")


def _read_table(kind: Any, body: Any, file: str, here: str, path: str) -> Any:
    """`here` says which table it is, `path` is its name in the file (empty: the top)."""
    if not isinstance(body, dict):
        raise wrong(here, "a table", body)
    known = {one.name: one for one in fields(kind) if "read" in one.metadata}
    for name in body:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ConfigError(f"{here}: unknown field {name!r}, {hint}")
    values = {}
    for name, one in known.items():
        if name in body:
            inner = f"{path}.{name}" if path else name
            values[name] = _read(one.metadata["read"], body[name], file, f"{here}: field {name}", inner)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError(f"{here}: expected a field {name}")
    return kind(**values)


def _read(read: Any, given: Any, file: str, here: str, path: str) -> Any:
    if isinstance(read, list):
        if not isinstance(given, list):
            raise wrong(here, f"tables [[{path}]]", given)
        return tuple(
            _read_table(read[0], item, file, f"{file}: [[{path}]] {place}", path)
            for place, item in enumerate(given, 1)
        )
    if is_dataclass(read):
        return _read_table(read, given, file, f"{file}: [{path}]", path)
    return read(given, here)
