"""Reading JSON of strangers: bounded, and every field checked before it is used (PURE).

Numbers become `Fraction` or `int`: a number with a point is read as the binary double that it denotes, and from
there on everything is exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from slicemq.errors import PlanError

MAX_DIGITS = 600
"""The most digits of a whole number; those of certificates are long."""
MOST = 1 << 62


def loads(text: str | bytes, what: str, most: int) -> dict[str, Any]:
    """A JSON object of at most `most` characters. Raises PlanError that begins with `what`."""
    if len(text) > most:
        raise PlanError(f"{what}: {len(text)} bytes, expected at most {most}")
    try:
        body = json.loads(text, parse_constant=_refuse, parse_int=_whole, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{what}: not JSON: {str(error)[:200]}") from error
    if not isinstance(body, dict):
        raise PlanError(f"{what}: expected an object, got {type(body).__name__}")
    return body


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


class Row:
    """An object of the document, and where it stands, for messages."""

    def __init__(self, body: Any, where: str) -> None:
        if not isinstance(body, dict):
            raise PlanError(f"{where}: expected an object, got {type(body).__name__}")
        self._body = body
        self.where = where

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self._body.get(key) is not None

    def __getitem__(self, key: str) -> Any:
        if key not in self._body:
            raise PlanError(f"{self.where}: field {key}: missing")
        return self._body[key]

    def at(self, key: str) -> str:
        """The field's name with the place of the object before it."""
        return f"{self.where}: field {key}"

    def pairs(self) -> list[tuple[str, Any]]:
        """Every field and what it holds."""
        return list(self._body.items())

    def row(self, key: str) -> Row:
        """An object."""
        return Row(self[key], self.at(key))

    def rows(self, key: str, most: int = MOST) -> list[Row]:
        """A list of objects."""
        return [Row(item, f"{self.at(key)}[{n}]") for n, item in enumerate(self.items(key, most))]

    def items(self, key: str, most: int = MOST) -> list[Any]:
        """A list of anything."""
        return listed(self[key], self.at(key), most)

    def text(self, key: str) -> str:
        """A text."""
        return text(self[key], self.at(key))

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self[key]
        if not isinstance(value, bool):
            raise PlanError(f"{self.at(key)}: expected true or false, got {_shown(value)}")
        return value

    def whole(self, key: str, least: int = 0, most: int = MOST) -> int:
        """A whole number."""
        return whole(self[key], self.at(key), least, most)

    def wholes(self, key: str, least: int = 0, most: int = MOST) -> list[int]:
        """A list of whole numbers."""
        return [whole(value, self.at(key), least, most) for value in self.items(key)]

    def real(self, key: str, *, above: int | None = None) -> Fraction:
        """A number of at least 0, or above `above`."""
        return real(self[key], self.at(key), above=above)

    def reals(self, key: str) -> list[Fraction]:
        """A list of numbers of at least 0."""
        return [real(value, self.at(key)) for value in self.items(key)]

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        return [text(value, self.at(key)) for value in self.items(key)]


def listed(value: Any, where: str, most: int = MOST) -> list[Any]:
    """A list of at most `most` items. Raises PlanError."""
    if not isinstance(value, list) or len(value) > most:
        raise PlanError(f"{where}: expected a list{'' if most == MOST else f' of at most {most}'}")
    return value


def text(value: Any, where: str) -> str:
    """A text. Raises PlanError."""
    if not isinstance(value, str):
        raise PlanError(f"{where}: expected a text, got {_shown(value)}")
    return value


def whole(value: Any, where: str, least: int = 0, most: int = MOST) -> int:
    """A whole number from `least` to `most`. Raises PlanError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise PlanError(f"{where}: expected a whole number from {least} to {most}, got {_shown(value)}")
    return value


def real(value: Any, where: str, *, above: int | None = None) -> Fraction:
    """A number of at least 0, or above `above`, exactly. Raises PlanError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value > 1e300:
        raise PlanError(f"{where}: expected a number of at least 0, got {_shown(value)}")
    if above is not None and value <= above:
        raise PlanError(f"{where}: expected a number above {above}, got {_shown(value)}")
    return Fraction(value)


def table(value: Any, where: str, lengths: Sequence[int]) -> list[list[Fraction | int | None]]:
    """Rows of numbers of these lengths; whole ones are `int`, null stays None. Raises PlanError."""
    rows = listed(value, where)
    if len(rows) != len(lengths):
        raise PlanError(f"{where}: {len(rows)} rows, expected {len(lengths)}")
    found: list[list[Fraction | int | None]] = []
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if len(listed(row, f"{where}[{number}]")) != length:
            raise PlanError(f"{where}[{number}]: {len(row)} numbers, expected {length}")
        found.append([None if item is None else _cell(item, where) for item in row])
    return found


def _cell(value: Any, where: str) -> Fraction | int:
    return value if type(value) is int and 0 <= value <= MOST else real(value, where)


def _shown(value: Any) -> str:
    return repr(value)[:60] if not isinstance(value, (list, dict)) else type(value).__name__
