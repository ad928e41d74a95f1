"""A node's configuration: flags win over environment, environment over the file, the file over defaults."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from slicemq.errors import ConfigError
from slicemq.log import LEVELS
from slicemq.options import BrokerOptions
from slicemq.settings import NETWORK, Option, Parser, add_options, gather, host_id, toml
from slicemq.version import __version__

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
                lines.append(f"{one.name} = {toml(value)}")
        lines.append("")
        lines.append("[labels]")
        lines.extend(f"{toml(name)} = {toml(value)}" for name, value in sorted(self.labels.items()))
        return "\n".join(lines) + "\n"


_OPTIONS: dict[str, Option] = {
    "id": Option("id", "this node's id (default: the host's name)"),
    "cluster": NETWORK["cluster"],
    "broker": NETWORK["broker"],
    "data_broker": Option("text", "URL of a second broker on this board, as other nodes reach it"),
    **{name: NETWORK[name] for name in ("username", "password_file", "ca_file", "cert_file", "key_file")},
    "state_dir": Option("text", "folder for cache and measurements"),
    "cache_mb": Option("int", "most MB of slices kept on disk", 1000, least=1),
    "memory_mb": Option("int", "most MB of memory for slices (default: what is free)", least=1),
    "reserve_mb": Option("int", "MB of memory left free for others", 50, least=0),
    "threads": Option("int", "threads of an interpreter (default: whole cores)", least=1, most=256),
    "spare_workers": Option(
        "int", "workers started ahead, where memory allows, so that slices start sooner: 0 or 1", 1, least=0, most=1
    ),
    "runtime": Option("text", "TFLite runtime", "auto", choices=RUNTIME_CHOICES),
    "heartbeat": Option("float", "seconds between heartbeats", 0.4, least=0.05, most=10.0),
    "labels": Option("labels", "label name=value; may be repeated", {}),
    "log_level": Option("text", "log level", "info", choices=LEVELS, shared=True),
    "log_format": Option("text", "log format", "text", choices=("text", "json"), shared=True),
}


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of the node program."""
    made = Parser(
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
    add_options(made, _OPTIONS)
    return made


def load_config(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> NodeConfig:
    """Put file, environment and flags together; raises ConfigError that names the source and the field."""
    named = arguments.config or environment.get("SLICEMQ_NODE_CONFIG")
    file = Path(named) if named else DEFAULT_FILE if DEFAULT_FILE.exists() else None
    values = gather(_OPTIONS, arguments, environment, file, "SLICEMQ_NODE_")
    if values["id"] is None:
        values["id"] = host_id()
    if values["state_dir"] is None:
        values["state_dir"] = _default_state_dir(values["id"], environment)
    return NodeConfig(**values)


def parse_arguments(prog: str, words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises UsageError."""
    return parser(prog).parse_args(list(words))


def _default_state_dir(node: str, environment: Mapping[str, str]) -> str:
    given = environment.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return given
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return str(Path(base) / "slicemq" / node)
