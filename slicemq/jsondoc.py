"""JSON in and out of typed documents: bounded, versioned, and refused with the field's name when it is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar, get_origin

import dacite

from slicemq.errors import ProtocolError, VersionError
from slicemq.topics import PROTOCOL_MAJOR

PROTOCOL = f"{PROTOCOL_MAJOR}.4"
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\Z")
Document = TypeVar("Document")


def encode(document: Any) -> bytes:
    """The JSON of a document, with the protocol version in front."""
    body = {"protocol": PROTOCOL, **dataclasses.asdict(document)}
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def decode(kind: type[Document], payload: bytes, topic: str) -> Document:
    """Read a document of type `kind`.

    Raises ProtocolError that names the topic, the field and what was expected, or VersionError for
    another major version.
    """
    body = json_object(payload, topic)
    check_version(body, topic)
    try:
        return dacite.from_dict(kind, body, _DACITE)
    except (dacite.DaciteError, ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"{topic}: not a {kind.__name__}: {_why(error)}") from error


def check_version(body: dict[str, Any], topic: str) -> None:
    """Raise VersionError unless the document's `protocol` has this software's major version."""
    version = body.get("protocol")
    if not isinstance(version, str) or not _VERSION.match(version):
        raise ProtocolError(
            f"{topic}: field protocol: expected a version such as {PROTOCOL!r}, got {str(version)[:80]!r}"
        )
    if int(version.split(".")[0]) != PROTOCOL_MAJOR:
        raise VersionError(f"{topic}: protocol version {version!r}, this software speaks {PROTOCOL!r}")


def to_plain(document: Any) -> dict[str, Any]:
    """A document as plain dicts and lists, to put inside another or to print."""
    return dataclasses.asdict(document)


def from_plain(kind: type[Document], body: Any, where: str) -> Document:
    """The reverse of `to_plain`; raises ProtocolError that names `where` and the field."""
    if not isinstance(body, dict):
        raise ProtocolError(f"{where}: expected an object, got {type(body).__name__}")
    try:
        return dacite.from_dict(kind, body, _DACITE)
    except (dacite.DaciteError, ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"{where}: not a {kind.__name__}: {_why(error)}") from error


def json_object(payload: bytes, topic: str) -> dict[str, Any]:
    """The JSON object in `payload`, bounded in size, depth and numbers. Raises ProtocolError naming the topic."""
    if len(payload) > MAX_DOCUMENT_BYTES:
        raise ProtocolError(f"{topic}: {len(payload)} bytes, expected at most {MAX_DOCUMENT_BYTES}")
    try:
        body = json.loads(
            payload, parse_constant=_refuse_constant, parse_int=_bounded_int, parse_float=_finite_float
        )
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{topic}: not JSON: {_why(error)}") from error
    if not isinstance(body, dict):
        raise ProtocolError(f"{topic}: expected a JSON object, got {type(body).__name__}")
    if _is_deep(body):
        raise ProtocolError(f"{topic}: nested deeper than {MAX_DEPTH} levels")
    return body


def _is_deep(body: dict[str, Any]) -> bool:
    """Whether writing the document again could exhaust the stack."""
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _bounded_int(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _why(error: Exception) -> str:
    """The error's text, kept short: it may repeat what a stranger sent."""
    return str(error)[:400]


def _number(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) >= 1 << 53):
        raise dacite.WrongTypeError(float, value)
    return float(value) if isinstance(value, int) else value


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 64):
        raise dacite.WrongTypeError(int, value)
    return value


class _Hooks(dict[Any, Callable[[Any], Any]]):
    """Hooks by type, and one for every tuple type: only an array is read as a tuple (dacite takes a string too)."""

    def __contains__(self, kind: object) -> bool:
        return super().__contains__(kind) or get_origin(kind) is tuple

    def __missing__(self, kind: Any) -> Callable[[Any], Any]:
        def check(value: Any) -> Any:
            if not isinstance(value, (list, tuple)):
                raise dacite.WrongTypeError(kind, value)
            return tuple(value)

        return check


_DACITE = dacite.Config(type_hooks=_Hooks({float: _number, int: _whole}), check_types=True)
