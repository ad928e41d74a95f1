"""The `slicemq` program: the table of verbs. Each verb is one file, which imports lazily what it needs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import typer

from slicemq.version import __version__

_GROUPS = {
    "broker": "Run the embedded broker.",
    "node": "Run, list and maintain edge nodes.",
    "coordinator": "Run the coordinator.",
    "model": "Convert models, look at them, cut them and verify the slices; roll out what a folder holds.",
    "plan": "Make and check plans.",
    "rollout": "Follow and steer rollouts.",
    "ingress": "Let devices that only speak plain MQTT use pipelines.",
}
# Words of the command line -> module below coordinator.cli that holds it as `command`.
_VERBS = {
    ("broker", "run"): "broker_run",
    ("node", "run"): "node_run",
    ("node", "list"): "node_list",
    ("node", "drain"): "node_drain",
    ("node", "undrain"): "node_undrain",
    ("node", "pin"): "node_pin",
    ("node", "unpin"): "node_unpin",
    ("node", "forget"): "node_forget",
    ("coordinator", "run"): "coordinator_run",
    ("model", "inspect"): "model_inspect",
    ("model", "convert"): "model_convert",
    ("model", "slice"): "model_slice",
    ("model", "verify"): "model_verify",
    ("model", "profile"): "model_profile",
    ("model", "watch"): "model_watch",
    ("plan", "make"): "plan_make",
    ("plan", "explain"): "plan_explain",
    ("plan", "check"): "plan_check",
    ("rollout", "status"): "rollout_status",
    ("rollout", "history"): "rollout_history",
    ("rollout", "pause"): "rollout_pause",
    ("rollout", "resume"): "rollout_resume",
    ("rollout", "promote"): "rollout_promote",
    ("rollout", "rollback"): "rollout_rollback",
    ("ingress", "run"): "ingress_run",
    ("ingress", "retire"): "ingress_retire",
    ("deploy",): "deploy",
    ("undeploy",): "undeploy",
    ("status",): "status",
    ("infer",): "infer",
    ("bench",): "bench",
    ("emulate",): "emulate",
    ("simulate",): "simulate",
}
# Verbs that read their own options (the daemons, which have configuration files).
_FORWARDING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"slicemq {__version__}")
        raise typer.Exit


def build(words: Sequence[str]) -> typer.Typer:
    """The application with the verbs that the command line `words` may mean; the others are not imported."""
    app = typer.Typer(
        name="slicemq",
        help="Run a TFLite model that is too big for one small board on the boards you already have, over MQTT.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def _top(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print version."),
    ) -> None:
        """Run one model over many small boards."""

    plain = [word for word in words if not word.startswith("-")]
    for group, text in _GROUPS.items():
        inner = typer.Typer(no_args_is_help=True, help=text, rich_markup_mode=None)
        for verb, module in _VERBS.items():
            if verb[0] == group and len(verb) == 2 and (not plain or plain[0] == group):
                _add(inner, verb[1], module)
        app.add_typer(inner, name=group)
    for verb, module in _VERBS.items():
        if len(verb) == 1 and (not plain or plain[0] == verb[0] or plain[0] not in _known()):
            _add(app, verb[0], module)
    return app


def _known() -> set[str]:
    return {verb[0] for verb in _VERBS}


def _add(app: typer.Typer, name: str, module: str) -> None:
    loaded = importlib.import_module(f"coordinator.cli.{module}")
    settings = _FORWARDING if getattr(loaded, "FORWARDS", False) else None
    app.command(name, context_settings=settings)(loaded.command)
