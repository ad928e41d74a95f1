"""What the values of a scenario file mean: rates, sizes, times and plain values, each read strictly.

Every reader takes the value that TOML gave and a text that says where it stands, and raises ConfigError
`<where>: expected ..., got ...`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from slicemq.errors import ConfigError
from slicemq.topics import is_id

Reader = Callable[[Any, str], Any]

_RATES = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}
_SIZES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_WITH_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]+)\s*")


def wrong(where: str, expected: str, value: Any) -> ConfigError:
    """The error for a value that is not what was expected."""
    return ConfigError(f"{where}: expected {expected}, got {value!r}")


def _with_unit(value: Any, where: str, units: Mapping[str, float], what: str) -> float:
    found = _WITH_UNIT.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[2] not in units:
        raise wrong(where, f"{what} (units: {', '.join(units)})", value)
    return float(found[1]) * units[found[2]]


def rate(value: Any, where: str) -> float:
    """`"100 Mbit/s"` -> bits per second, at least 10 kbit/s."""
    bits = _with_unit(value, where, _RATES, 'a rate such as "100 Mbit/s"')
    if not 1e4 <= bits <= 1e12:
        raise wrong(where, "a rate from 10 kbit/s to 1000 Gbit/s", value)
    return bits


def size(value: Any, where: str) -> int:
    """`"256 MB"` -> bytes (MB is 10^6 bytes, MiB 2^20), at least 1 MB."""
    found = round(_with_unit(value, where, _SIZES, 'a size such as "256 MB"'))
    if not 1e6 <= found <= 1e13:
        raise wrong(where, "a size of at least 1 MB", value)
    return found


def seconds(value: Any, where: str) -> float:
    """`"20 ms"`, or a number of seconds -> seconds, 0 to a day."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    found = float(value) if plain else _with_unit(value, where, _TIMES, 'seconds, or a time such as "20 ms"')
    if not 0 <= found <= 86400:
        raise wrong(where, "a time from 0 to a day", value)
    return found


def text(value: Any, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise wrong(where, "a text", value)
    return value


def identifier(value: Any, where: str) -> str:
    """An id: lower-case letters, digits and hyphens."""
    if not isinstance(value, str) or not is_id(value):
        raise wrong(where, "an id (1 to 64 lower-case letters, digits and hyphens)", value)
    return value


def truth(value: Any, where: str) -> bool:
    """`true` or `false`."""
    if not isinstance(value, bool):
        raise wrong(where, "true or false", value)
    return value


def one_of(*choices: str) -> Reader:
    """One of these words."""

    def read(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise wrong(where, " or ".join(choices), value)
        return value

    return read


def whole(low: int, high: int) -> Reader:
    """A whole number from `low` to `high`."""

    def read(value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(where, f"a whole number from {low} to {high}", value)
        return value

    return read


def number(low: float, high: float) -> Reader:
    """A number from `low` to `high`."""

    def read(value: Any, where: str) -> float:
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not plain or not math.isfinite(value) or not low <= value <= high:
            raise wrong(where, f"a number from {low:g} to {high:g}", value)
        return float(value)

    return read


def list_of(reader: Reader, *, least: int = 0) -> Reader:
    """A list (a tuple, when read) of values that `reader` reads."""

    def read(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise wrong(where, "a list" + (f" of at least {least}" if least else ""), value)
        return tuple(reader(item, f"{where}, item {place}") for place, item in enumerate(value, 1))

    return read


def labels(value: Any, where: str) -> dict[str, str]:
    """A table of texts."""
    if not isinstance(value, dict):
        raise wrong(where, "a table of texts", value)
    return {name: text(item, f"{where}.{name}") for name, item in value.items()}


def frames_per_second(value: Any, where: str) -> float | None:
    """`"full"` -> None (as fast as the window lets), or frames per second."""
    if value == "full":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e6:
        raise wrong(where, '"full" or frames per second', value)
    return float(value)
