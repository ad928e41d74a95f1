"""A daemon's settings: flags win over environment, environment over the file, the file over defaults."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from slicemq.errors import ConfigError, UsageError
from slicemq.topics import is_id

# The same module: the standard library has it since Python 3.11.
_toml_reader: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


@dataclass(frozen=True)
class Option:
    """One setting: `kind` is text, id, int, float or labels; `least` and `most` bound numbers.

    With `shared` the variable SLICEMQ_<NAME>, which all programs read, is asked after the program's own.
    """

    kind: str
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    shared: bool = False


# What every daemon that connects has.
NETWORK: dict[str, Option] = {
    "cluster": Option("id", "the cluster's id", "default", shared=True),
    "broker": Option("text", "mqtt://, mqtts://, ws:// or wss://host[:port]", "mqtt://localhost:1883", shared=True),
    "username": Option("text", "user name for the broker", shared=True),
    "password_file": Option("text", "file whose first line is the password", shared=True),
    "ca_file": Option("text", "the broker's authority (PEM)", shared=True),
    "cert_file": Option("text", "client certificate (PEM)", shared=True),
    "key_file": Option("text", "key of the client certificate (PEM)", shared=True),
}


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--label" if name == "labels" else "--" + name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser, options: Mapping[str, Option]) -> None:
    """Give the parser a flag for each option; what is not given is None."""
    for name, option in options.items():
        text = option.help + (f": {', '.join(option.choices)}" if option.choices else "")
        if option.default not in (None, {}):
            text += f" (default: {option.default})"
        action = "append" if name == "labels" else "store"
        metavar = name.split("_")[-1].upper()
        parser.add_argument(flag_of(name), dest=name, metavar=metavar, action=action, help=text.replace("%", "%%"))


def gather(
    options: Mapping[str, Option],
    arguments: argparse.Namespace,
    environment: Mapping[str, str],
    file: Path | None,
    prefix: str,
) -> dict[str, Any]:
    """The value of each option; `prefix` is the program's in variables (`SLICEMQ_NODE_`).

    Raises ConfigError that names the source and the field.
    """
    values: dict[str, Any] = {name: option.default for name, option in options.items()}
    if file is not None:
        values.update(_from_file(options, file))
    for name, option in options.items():
        for variable in (f"{prefix}{name.upper()}", *([f"SLICEMQ_{name.upper()}"] if option.shared else [])):
            if environment.get(variable):
                values[name] = _from_text(option, environment[variable], f"variable {variable}")
                break
    for name, option in options.items():
        given = getattr(arguments, name)
        if given is not None:
            text = ",".join(given) if name == "labels" else given
            values[name] = _from_text(option, text, flag_of(name))
    return values


def host_id() -> str:
    """An id made of this host's name; raises ConfigError where it gives none."""
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:64].strip("-")
    if not is_id(name):
        raise ConfigError(f"field id: the host's name {socket.gethostname()!r} gives no id; set one")
    return name


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return str(value)


def _from_file(options: Mapping[str, Option], file: Path) -> dict[str, Any]:
    try:
        body = _toml_reader.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    values = {}
    for name, value in body.items():
        if name not in options:
            near = difflib.get_close_matches(name, options, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known fields: {', '.join(options)}"
            raise ConfigError(f"{file}: unknown field {name!r}{hint}")
        values[name] = _checked(options[name], value, f"{file}: field {name}")
    return values


def _from_text(option: Option, text: str, where: str) -> Any:
    kind = option.kind
    value: Any = text
    try:
        if kind == "int":
            value = int(text)
        elif kind == "float":
            value = float(text)
    except ValueError:
        raise ConfigError(
            f"{where}: expected {'a whole number' if kind == 'int' else 'a number'}, got {text!r}"
        ) from None
    if kind == "labels":
        value = {}
        for pair in filter(None, text.split(",")):
            label, separator, content = pair.partition("=")
            if not separator or not label:
                raise ConfigError(f"{where}: expected name=value, got {pair!r}")
            value[label.strip()] = content.strip()
    return _checked(option, value, where)


def _checked(option: Option, value: Any, where: str) -> Any:
    if option.kind == "labels":
        if not isinstance(value, dict) or not all(isinstance(content, str) for content in value.values()):
            raise ConfigError(f"{where}: expected a table of texts")
        return dict(value)
    if option.kind in ("text", "id"):
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}: expected a text, got {value!r}")
        if option.kind == "id" and not is_id(value):
            raise ConfigError(f"{where}: {value!r} is no id: 1 to 64 lower-case letters, digits and hyphens")
        if option.choices and value not in option.choices:
            raise ConfigError(f"{where}: expected {' or '.join(option.choices)}, got {value!r}")
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (option.kind == "float" and isinstance(value, float)):
        raise ConfigError(f"{where}: expected a{' whole' if option.kind == 'int' else ''} number, got {value!r}")
    low, high = option.least, option.most
    # Written so that NaN, which compares false, is refused.
    if not ((low is None or value >= low) and (high is None or value <= high)):
        limits = f"at least {low:g}" + (f" and at most {high:g}" if high is not None else "")
        raise ConfigError(f"{where}: expected {limits}, got {value!r}")
    return float(value) if option.kind == "float" else value
