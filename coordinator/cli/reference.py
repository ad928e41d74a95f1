"""The reference of all verbs as Markdown, made from the verbs themselves: `python -m coordinator.cli.reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from coordinator.cli.app import build

_SHARED = (
    "--broker",
    "--cluster",
    "--username",
    "--password-file",
    "--ca-file",
    "--cert-file",
    "--key-file",
    "--format",
    "--log-level",
    "--log-format",
)
_HEAD = """# Commands

Made by `python -m coordinator.cli.reference`; `slicemq VERB --help` says the same. Every verb ends with a
numbered [exit code](exit-codes.md). `slicemq-coordinator` is `slicemq coordinator run`, `slicemq-node` is
`slicemq node run` (whose options stand in [node-config.md](node-config.md)).

## Options that verbs share
"""


def lines() -> Iterator[str]:
    """The document's lines."""
    root = typer.main.get_command(build([]))
    verbs = list(_verbs(root, "slicemq"))
    yield from _HEAD.splitlines()
    yield ""
    every = {option: row for _, verb in verbs for option, row in _options(verb).items()}
    yield from _table({option: every[option] for option in _SHARED})
    for path, verb in verbs:
        arguments = [p for p in verb.params if p.param_type_name == "argument"]
        yield ""
        yield f"## {path}"
        yield ""
        yield f"`{' '.join([path, *map(_metavar, arguments)])}`"
        yield ""
        yield " ".join((verb.help or "").split())
        own = {option: row for option, row in _options(verb).items() if option not in _SHARED}
        rows = {_metavar(p): ("", p.help) for p in arguments if getattr(p, "help", None)} | own
        shared = [option for option in _options(verb) if option in _SHARED]
        if rows:
            yield ""
            yield from _table(rows)
        if shared:
            yield ""
            yield "Shared: " + ", ".join(f"`{option}`" for option in shared) + "."


def _verbs(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from _verbs(child, f"{path} {name}")


def _options(verb: Any) -> dict[str, tuple[str, str]]:
    rows = {}
    for parameter in verb.params:
        if parameter.param_type_name != "option" or parameter.name == "help":
            continue
        name = " / ".join([*parameter.opts, *parameter.secondary_opts])
        default = parameter.default
        shown = str(default) if isinstance(default, str | int | float) else ""
        if parameter.required:
            shown = "required"
        rows[name] = (shown, str(parameter.help or ""))
    return rows


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper()) + ("" if argument.nargs == 1 else "...")


def _table(rows: dict[str, tuple[str, Any]]) -> Iterator[str]:
    yield "| option | default | meaning |"
    yield "| --- | --- | --- |"
    for option, (default, text) in rows.items():
        escaped = " ".join(str(text).split()).replace("|", "\\|")
        yield f"| `{option}` | {f'`{default}`' if default else ''} | {escaped} |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
