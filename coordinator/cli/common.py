"""What all verbs share: the options for broker, cluster, output and logs, and how errors end a program.

A verb is a function decorated with `@verb`. Where it has a parameter `net: Network` it gets the broker's
options (`--broker`, `--cluster`, `--username` ...) and where it has `out: Output` it gets `--format`; both come
to it as ready objects. Every verb gets `--log-level` and `--log-format`.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import typer

from slicemq.errors import SliceMQError, StoreError, UsageError
from slicemq.log import LEVELS, setup_logging
from slicemq.topics import Topics, check_id

if TYPE_CHECKING:
    from rich.progress import Progress

    from slicemq.options import BrokerOptions

DEFAULT_BROKER = "mqtt://localhost:1883"
# Runs a verb's body in a process of its own (body, the model's name); set by the program, not when it is a library.
isolate: ContextVar[Callable[[Callable[[], None], str], None] | None] = ContextVar("isolate", default=None)


@dataclass(frozen=True)
class Network:
    """Where the cluster is: the broker's options and the cluster's id."""

    options: BrokerOptions
    cluster: str

    @property
    def topics(self) -> Topics:
        """The cluster's topics."""
        return Topics(self.cluster)


@dataclass(frozen=True)
class Output:
    """Where results go: text for people on standard output, or one JSON document."""

    format: Literal["text", "json"] = "text"

    @property
    def json(self) -> bool:
        """Whether the result shall be JSON."""
        return self.format == "json"

    def result(self, body: Any, text: str | Callable[[], str]) -> None:
        """Print `body` as JSON, or `text` (or what it returns)."""
        if self.json:
            self._write(json.dumps(body, indent=2, allow_nan=False))
        else:
            self._write((text if isinstance(text, str) else text()).rstrip("\n"))

    def event(self, body: Any, text: str) -> None:
        """Print one of many results: `body` as one line of JSON, or `text`."""
        self._write(json.dumps(body, allow_nan=False) if self.json else text)

    def _write(self, shown: str) -> None:
        try:
            sys.stdout.write(shown + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            # What Python still holds back cannot be written at its end either.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            raise StoreError(f"standard output: {error.strerror}") from error

    def table(self, columns: list[str], rows: list[list[str]]) -> str:
        """A plain table: columns as wide as their widest cell, numbers to the right."""
        widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
        right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]

        def line(cells: list[str]) -> str:
            padded = (
                cell.rjust(width) if flush else cell.ljust(width)
                for cell, width, flush in zip(cells, widths, right, strict=True)
            )
            return "  ".join(padded).rstrip()

        return "\n".join([line(columns), *(line(row) for row in rows)])

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A progress display on standard error: shown on a terminal only."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            yield progress


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(".", "", 1).replace("-", "", 1).replace("%", "").replace("x", "").isdigit()


_NETWORK_OPTIONS: list[tuple[str, Any, Any]] = [
    (
        "broker",
        str,
        typer.Option(
            DEFAULT_BROKER,
            "--broker",
            envvar="SLICEMQ_BROKER",
            help="The broker: mqtt://, mqtts://, ws:// or wss://, host and port.",
        ),
    ),
    (
        "cluster",
        str,
        typer.Option("default", "--cluster", envvar="SLICEMQ_CLUSTER", help="The cluster's id."),
    ),
    (
        "username",
        str | None,
        typer.Option(None, "--username", envvar="SLICEMQ_USERNAME", help="User name for the broker."),
    ),
    (
        "password_file",
        str | None,
        typer.Option(
            None, "--password-file", envvar="SLICEMQ_PASSWORD_FILE", help="File whose first line is the password."
        ),
    ),
    (
        "ca_file",
        str | None,
        typer.Option(None, "--ca-file", envvar="SLICEMQ_CA_FILE", help="The broker's authority (PEM)."),
    ),
    (
        "cert_file",
        str | None,
        typer.Option(None, "--cert-file", envvar="SLICEMQ_CERT_FILE", help="Client certificate (PEM)."),
    ),
    (
        "key_file",
        str | None,
        typer.Option(None, "--key-file", envvar="SLICEMQ_KEY_FILE", help="Key of the client certificate (PEM)."),
    ),
]
_OUTPUT_OPTIONS: list[tuple[str, Any, Any]] = [
    ("output_format", str, typer.Option("text", "--format", help="text or json.")),
]


def _log_options(level: str) -> list[tuple[str, Any, Any]]:
    return [
        (
            "log_level",
            str,
            typer.Option(level, "--log-level", envvar="SLICEMQ_LOG_LEVEL", help=", ".join(LEVELS) + "."),
        ),
        (
            "log_format",
            str,
            typer.Option("text", "--log-format", envvar="SLICEMQ_LOG_FORMAT", help="text or json."),
        ),
    ]


def daemon(function: Callable[..., None]) -> Callable[..., None]:
    """A verb that runs until it is stopped, and therefore says by default what it does."""
    return verb(function, log_level="info")


def model_verb(function: Callable[..., None]) -> Callable[..., None]:
    """A verb that loads the model `file` into a TFLite runtime, which a damaged file may crash.

    As a program (`coordinator.cli.main`) its body runs in a process of its own (`coordinator.cli.isolated`).
    """
    return verb(function, isolated=True)


def verb(
    function: Callable[..., None], *, log_level: str = "warning", isolated: bool = False
) -> Callable[..., None]:
    """Make a command of `function`: add the shared options, set up logging, turn errors into exit codes."""
    hints = get_type_hints(function)
    own = [
        parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("net", "out")
    ]
    wants_net = "net" in inspect.signature(function).parameters
    wants_out = "out" in inspect.signature(function).parameters
    shared = [
        *(_NETWORK_OPTIONS if wants_net else []),
        *(_OUTPUT_OPTIONS if wants_out else []),
        *_log_options(log_level),
    ]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        with exit_codes():
            given = {name: values.pop(name) for name, _, _ in shared}
            _check_choice("--log-level", given["log_level"], LEVELS)
            _check_choice("--log-format", given["log_format"], ("text", "json"))
            setup_logging(given["log_level"], given["log_format"])
            if given["log_level"] == log_level == "warning":
                # A verb ends with what was wrong with the connection; the log would say it twice.
                logging.getLogger("slicemq.keeper").setLevel(logging.ERROR)
            if wants_out:
                _check_choice("--format", given["output_format"], ("text", "json"))
                values["out"] = Output(given["output_format"])
            if wants_net:
                values["net"] = _network(given)
            run = isolate.get() if isolated else None
            if run is None:
                function(**values)
            else:
                run(functools.partial(function, **values), str(values["file"]))

    keyword = inspect.Parameter.KEYWORD_ONLY
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *(parameter.replace(kind=keyword) for parameter in own),
            *(inspect.Parameter(name, keyword, default=option, annotation=kind) for name, kind, option in shared),
        ]
    )
    command.__annotations__ = {name: kind for name, kind, _ in shared} | {p.name: p.annotation for p in own}
    return command


@contextmanager
def exit_codes() -> Iterator[None]:
    """Print a SliceMQError as one line on standard error and end the program with its exit code."""
    try:
        yield
    except SliceMQError as error:
        sys.stderr.write(f"slicemq: {error}\n")
        raise SystemExit(error.exit_code) from error
    except BrokenPipeError:
        # The reader of our output has gone (`slicemq ... | head`); nothing is left to say to it.
        sys.stderr.close()
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _network(given: dict[str, Any]) -> Network:
    from slicemq.options import BrokerOptions

    options = BrokerOptions.from_url(
        given["broker"],
        username=given["username"],
        password_file=given["password_file"],
        ca_file=given["ca_file"],
        cert_file=given["cert_file"],
        key_file=given["key_file"],
    )
    return Network(options, check_id("cluster", given["cluster"]))


def _check_choice(option: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise UsageError(f"{option}: expected {' or '.join(choices)}, got {given!r}")
