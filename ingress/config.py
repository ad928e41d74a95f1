"""An ingress's configuration: flags win over environment, environment over the file, the file over defaults."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ingress.answers import OUTPUT_KINDS, OutputKind
from ingress.line import POLICIES, Limits, Policy
from ingress.payloads import INPUT_KINDS, InputKind, InputRules
from ingress.pictures import RESIZES, PictureRules, Resize
from ingress.topicmap import TopicMap
from slicemq.errors import ConfigError, UsageError
from slicemq.log import LEVELS
from slicemq.options import BrokerOptions
from slicemq.pixels import NORMALIZATIONS
from slicemq.settings import NETWORK, Option, Parser, add_options, gather, toml
from slicemq.topics import is_id
from slicemq.version import __version__

FOLDER = Path("/etc/slicemq/ingress")
# Its clients are named after it.
_LONGEST_ID = 48
_OPTIONS: dict[str, Option] = {
    "pipeline": Option("id", "the pipeline that answers"),
    "from": Option("text", "topic filter of the devices' messages, such as cams/+/image"),
    "to": Option("text", "topic of the answers; {1} is what the first wildcard of --from met: cams/{1}/boxes"),
    "id": Option("id", "the stream's name, which its session in the broker carries (default: the pipeline's)"),
    **NETWORK,
    "in": Option("text", "what payloads are", "auto", choices=INPUT_KINDS),
    "out": Option("text", "what answers are", "json", choices=OUTPUT_KINDS),
    "policy": Option("text", "what happens when more waits than the queue holds", "block", choices=POLICIES),
    "queue": Option("int", "most messages that wait in memory", 250, least=1, most=100_000),
    "queue_mb": Option("int", "most MB that messages and answers take in memory", 256, least=1, most=1_000_000),
    "max_message_mb": Option("int", "larger messages are refused, MB", 32, least=1, most=256),
    "resize": Option("text", "how a picture gets the input's size", "stretch", choices=RESIZES),
    "normalize": Option(
        "text", "how pixels become values; floats: -1..1 unless said, 8-bit inputs: none", choices=NORMALIZATIONS
    ),
    "max_megapixels": Option(
        "float", "larger pictures are refused unread, 10^6 pixels", 25.0, least=0.001, most=500
    ),
    "json_values": Option("int", "most values of a JSON answer", 50_000, least=1, most=10_000_000),
    "give_up_after": Option("float", "seconds after which a frame ends as gave-up (default: never)", least=0.001),
    "log_level": Option("text", "log level", "info", choices=LEVELS, shared=True),
    "log_format": Option("text", "log format", "text", choices=("text", "json"), shared=True),
}
# Words of Python that cannot name a field.
_FIELDS = {"from": "source", "to": "target", "in": "input_kind", "out": "output_kind"}
_RETIRE = ("id", *NETWORK, "log_level", "log_format")


@dataclass(frozen=True)
class IngressConfig:
    """The effective configuration; sizes in MB (10^6 bytes), times in seconds. docs/how-to/plain-devices.md."""

    pipeline: str
    source: str
    target: str
    id: str
    cluster: str
    broker: str
    username: str | None
    password_file: str | None
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    input_kind: InputKind
    output_kind: OutputKind
    policy: Policy
    queue: int
    queue_mb: int
    max_message_mb: int
    resize: Resize
    normalize: str | None
    max_megapixels: float
    json_values: int
    give_up_after: float | None
    log_level: str
    log_format: str

    def broker_options(self) -> BrokerOptions:
        """The broker's options; raises ConfigError for a wrong address or a file that cannot be read."""
        return _broker({one.name: getattr(self, one.name) for one in fields(self)})

    def limits(self) -> Limits:
        """The bounds of the line."""
        return Limits(self.queue, self.queue_mb * 1_000_000, self.max_message_mb * 1_000_000, self.policy)

    def input_rules(self) -> InputRules:
        """How payloads are read."""
        picture = PictureRules(self.resize, self.normalize, round(self.max_megapixels * 1e6))
        return InputRules(self.input_kind, picture)

    def shown(self) -> str:
        """The configuration as TOML; it holds names of secret files, never secrets."""
        values = {name: getattr(self, _FIELDS.get(name, name)) for name in _OPTIONS}
        return "".join(f"{name} = {toml(value)}\n" for name, value in values.items() if value is not None)


@dataclass(frozen=True)
class Retirement:
    """Which ingress is to be forgotten."""

    id: str
    cluster: str
    options: BrokerOptions
    log_level: str
    log_format: str


def run_arguments(prog: str, words: Sequence[str]) -> argparse.Namespace:
    """Read the command line of `run`; raises UsageError."""
    made = Parser(
        prog=prog,
        description="Let devices that only speak plain MQTT use a pipeline: their messages in, its answers out.",
        epilog="Each option may also stand in the file (with _ for -) or in the environment "
        "(SLICEMQ_INGRESS_<NAME>). Flags win over environment, environment over the file.",
        allow_abbrev=False,
    )
    made.add_argument("name", metavar="PIPELINE", nargs="?", help="the pipeline that answers")
    made.add_argument("--version", action="version", version=f"slicemq {__version__}")
    made.add_argument("--config", metavar="FILE", help=f"TOML file, such as {FOLDER}/<id>.toml")
    made.add_argument("--format", choices=("text", "json"), default="text", help="of the line that says it runs")
    made.add_argument("--check-config", action="store_true", help="check, print the effective configuration, end")
    add_options(made, {name: option for name, option in _OPTIONS.items() if name != "pipeline"})
    arguments = made.parse_args(list(words))
    arguments.pipeline = arguments.name
    return arguments


def load_config(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> IngressConfig:
    """Put file, environment and flags together; raises ConfigError or UsageError that names what is wrong."""
    named = arguments.config or environment.get("SLICEMQ_INGRESS_CONFIG")
    values = gather(_OPTIONS, arguments, environment, Path(named) if named else None, "SLICEMQ_INGRESS_")
    for name, how in (("pipeline", "the pipeline's name"), ("from", "--from TOPIC"), ("to", "--to TOPIC")):
        if values[name] is None:
            raise UsageError(f"{how} is missing: slicemq ingress run PIPELINE --from TOPIC --to TOPIC")
    values["id"] = _checked_id(values["id"] or values["pipeline"])
    if values["max_message_mb"] > values["queue_mb"]:
        raise ConfigError(
            f"field max_message_mb: {values['max_message_mb']}, expected at most queue_mb ({values['queue_mb']})"
        )
    TopicMap(values["from"], values["to"])
    return IngressConfig(**{_FIELDS.get(name, name): value for name, value in values.items()})


def load_retirement(
    prog: str, words: Sequence[str], environment: Mapping[str, str] = os.environ
) -> tuple[Retirement, argparse.Namespace]:
    """The command line of `retire`; raises UsageError or ConfigError."""
    made = Parser(
        prog=prog,
        description="End an ingress: its session in the broker is deleted, with all messages that wait there.",
        allow_abbrev=False,
    )
    made.add_argument("name", metavar="ID", help="the ingress (its --id, by default its pipeline's name)")
    made.add_argument("--force", action="store_true", help="even if it seems to run")
    made.add_argument("--format", choices=("text", "json"), default="text", help="of the result")
    options = {name: _OPTIONS[name] for name in _RETIRE}
    add_options(made, {name: option for name, option in options.items() if name != "id"})
    arguments = made.parse_args(list(words))
    arguments.id = arguments.name
    values = gather(options, arguments, environment, None, "SLICEMQ_INGRESS_")
    found = Retirement(
        _checked_id(values["id"]), values["cluster"], _broker(values), values["log_level"], values["log_format"]
    )
    return found, arguments


def _checked_id(text: str) -> str:
    if not is_id(text) or len(text) > _LONGEST_ID:
        raise UsageError(
            f"--id {text!r}: expected 1 to {_LONGEST_ID} lower-case letters, digits and hyphens, "
            "no hyphen at either end"
        )
    return text


def _broker(values: Mapping[str, Any]) -> BrokerOptions:
    files = {name: values[name] for name in ("username", "password_file", "ca_file", "cert_file", "key_file")}
    return BrokerOptions.from_url(values["broker"], **files)
