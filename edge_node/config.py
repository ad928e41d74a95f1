"""A node's configuration: flags win over environment, environment over the file, the file over defaults."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from slicemq.errors import ConfigError, UsageError
from slicemq.log import LEVELS
from slicemq.options import BrokerOptions
from slicemq.topics import is_id
from slicemq.version import __version__

# The same module: the standard library has it since Python 3.11.
_toml_reader: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
DEFAULT_FILE = Path("/etc/slicemq/node.toml")
RUNTIME_CHOICES = ("auto", "ai_edge_litert", "tflite_runtime")


@dataclass(frozen=True)
class NodeConfig:
    """The effective configuration; sizes in MB (10^6 bytes), times in seconds. docs/reference/node-config.md."""

    id: str
    cluster: str
    broker: str
    data_broker: str | None
    username: str | None
    password_file: str | None
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    state_dir: str
    cache_mb: int
    memory_mb: int | None
    reserve_mb: int
    threads: int | None
    spare_workers: int
    runtime: str
    heartbeat: float
    labels: Mapping[str, str]
    log_level: str
    log_format: str

    def broker_options(self) -> BrokerOptions:
        """The broker's options; raises ConfigError for a wrong address or a file that cannot be read."""
        return BrokerOptions.from_url(
            self.broker,
            username=self.username,
            password_file=self.password_file,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
        )

    def data_broker_options(self) -> BrokerOptions | None:
        """How this node enters its own data broker; None without one. Raises ConfigError for a wrong URL."""
        if self.data_broker is None:
            return None
        try:
            return self.broker_options().at(self.data_broker)
        except ConfigError as error:
            text = str(error).removeprefix("data broker").lstrip(": ")
            raise ConfigError(f"field data_broker: {text}") from error

    def shown(self) -> str:
        """The configuration as TOML; it holds names of secret files, never secrets."""
        lines = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and one.name != "labels":
                lines.append(f"{one.name} = {_toml(value)}")
        lines.append("")
        lines.append("[labels]")
        lines.extend(f"{_toml(name)} = {_toml(value)}" for name, value in sorted(self.labels.items()))
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Option:
    kind: str
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    # Whether SLICEMQ_<NAME>, which all programs read, is asked after SLICEMQ_NODE_<NAME>.
    shared: bool = False


_OPTIONS: dict[str, _Option] = {
    "id": _Option("id", "this node's id (default: the host's name)"),
    "cluster": _Option("id", "the cluster's id", "default", shared=True),
    "broker": _Option(
        "text", "mqtt://, mqtts://, ws:// or wss://host[:port]", "mqtt://localhost:1883", shared=True
    ),
    "data_broker": _Option("text", "URL of a second broker on this board, as other nodes reach it"),
    "username": _Option("text", "user name for the broker", shared=True),
    "password_file": _Option("text", "file whose first line is the password", shared=True),
    "ca_file": _Option("text", "the broker's authority (PEM)", shared=True),
    "cert_file": _Option("text", "client certificate (PEM)", shared=True),
    "key_file": _Option("text", "key of the client certificate (PEM)", shared=True),
    "state_dir": _Option("text", "folder for cache and measurements"),
    "cache_mb": _Option("int", "most MB of slices kept on disk", 1000, least=1),
    "memory_mb": _Option("int", "most MB of memory for slices (default: what is free)", least=1),
    "reserve_mb": _Option("int", "MB of memory left free for others", 50, least=0),
    "threads": _Option("int", "threads of an interpreter (default: whole cores)", least=1, most=256),
    "spare_workers": _Option(
        "int", "workers started ahead, where memory allows, so that slices start sooner: 0 or 1", 1, least=0, most=1
    ),
    "runtime": _Option("text", "TFLite runtime", "auto", choices=RUNTIME_CHOICES),
    "heartbeat": _Option("float", "seconds between heartbeats", 0.4, least=0.05, most=10.0),
    "labels": _Option("labels", "label name=value; may be repeated", {}),
    "log_level": _Option("text", "log level", "info", choices=LEVELS, shared=True),
    "log_format": _Option("text", "log format", "text", choices=("text", "json"), shared=True),
}


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of the node program."""
    made = _Parser(
        prog=prog,
        description="Run an edge node: it joins a SliceMQ cluster and runs the slices that it is given.",
        epilog="Each option may also stand in the file (with _ for -) or in the environment "
        "(SLICEMQ_NODE_<NAME>). Flags win over environment, environment over the file.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"slicemq-node {__version__}")
    made.add_argument("--config", metavar="FILE", help=f"TOML file (default: {DEFAULT_FILE}, if it exists)")
    made.add_argument(
        "--format", choices=("text", "json"), default="text", help="of the line that says it has joined"
    )
    made.add_argument("--check-config", action="store_true", help="check, print the effective configuration, end")
    for name, option in _OPTIONS.items():
        flag = "--label" if name == "labels" else "--" + name.replace("_", "-")
        text = option.help + (f": {', '.join(option.choices)}" if option.choices else "")
        if option.default not in (None, {}):
            text += f" (default: {option.default})"
        action = "append" if name == "labels" else "store"
        made.add_argument(flag, dest=name, metavar=name.split("_")[-1].upper(), action=action, help=text)
    return made


def load_config(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> NodeConfig:
    """Put file, environment and flags together; raises ConfigError that names the source and the field."""
    values: dict[str, Any] = {name: option.default for name, option in _OPTIONS.items()}
    file = arguments.config or environment.get("SLICEMQ_NODE_CONFIG")
    if file is not None or DEFAULT_FILE.exists():
        values.update(_from_file(Path(file or DEFAULT_FILE)))
    for name, option in _OPTIONS.items():
        for variable in (f"SLICEMQ_NODE_{name.upper()}", *([f"SLICEMQ_{name.upper()}"] if option.shared else [])):
            if environment.get(variable):
                values[name] = _from_text(name, environment[variable], f"variable {variable}")
                break
    for name in _OPTIONS:
        given = getattr(arguments, name)
        if given is not None:
            flag = "--label" if name == "labels" else "--" + name.replace("_", "-")
            values[name] = _from_text(name, ",".join(given) if name == "labels" else given, flag)
    if values["id"] is None:
        values["id"] = _host_id()
    if values["state_dir"] is None:
        values["state_dir"] = _default_state_dir(values["id"], environment)
    return NodeConfig(**values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse_arguments(prog: str, words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises UsageError."""
    return parser(prog).parse_args(list(words))


def _from_file(file: Path) -> dict[str, Any]:
    try:
        body = _toml_reader.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    values = {}
    for name, value in body.items():
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known fields: {', '.join(_OPTIONS)}"
            raise ConfigError(f"{file}: unknown field {name!r}{hint}")
        values[name] = _checked(name, value, f"{file}: field {name}")
    return values


def _from_text(name: str, text: str, where: str) -> Any:
    kind = _OPTIONS[name].kind
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
    return _checked(name, value, where)


def _checked(name: str, value: Any, where: str) -> Any:
    option = _OPTIONS[name]
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


def _host_id() -> str:
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:64].strip("-")
    if not is_id(name):
        raise ConfigError(f"field id: the host's name {socket.gethostname()!r} gives no id; set one")
    return name


def _default_state_dir(node: str, environment: Mapping[str, str]) -> str:
    given = environment.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return given
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return str(Path(base) / "slicemq" / node)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return str(value)
