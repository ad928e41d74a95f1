"""The program `slicemq-node` (and `slicemq node run`)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Sequence

from edge_node.config import NodeConfig, load_config, parse_arguments
from slicemq.errors import RuntimeUnavailableError, SliceMQError
from slicemq.log import setup_logging
from slicemq.options import link_kind


def main(words: Sequence[str] | None = None, *, prog: str = "slicemq-node") -> int:
    """Run a node with the command line `words` (without the program's name); gives the exit code."""
    try:
        arguments = parse_arguments(prog, sys.argv[1:] if words is None else words)
        config = load_config(arguments)
        link_kind(config.broker_options())
        if arguments.check_config:
            config.data_broker_options()
            sys.stdout.write(config.shown())
            _check_runtime(config.runtime)
            return 0
        setup_logging(config.log_level, config.log_format)
        # Not needed, and not imported, for --help and --check-config.
        from edge_node.service import NodeService

        NodeService(config, on_ready=lambda: _say_ready(config, arguments.format)).run()
    except SliceMQError as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _say_ready(config: NodeConfig, form: str) -> None:
    """One line on standard output; nobody has to read it."""
    where = config.broker_options().describe()
    body = {"state": "ready", "node": config.id, "cluster": config.cluster, "broker": where}
    text = f"ready: node {config.id} in cluster {config.cluster} at {where}"
    with contextlib.suppress(OSError):
        print(json.dumps(body) if form == "json" else text, flush=True)  # noqa: T201


def _check_runtime(wanted: str) -> None:
    """Raises RuntimeUnavailableError when no TFLite runtime that the configuration allows is installed."""
    names = ("ai_edge_litert", "tflite_runtime") if wanted == "auto" else (wanted,)
    if not any(importlib.util.find_spec(name) for name in names):
        raise RuntimeUnavailableError(
            f"no TFLite runtime is installed ({' or '.join(names)}): pip install 'slicemq[litert]', or "
            "'slicemq[tflite-runtime]' where the former has no wheel"
        )


if __name__ == "__main__":
    raise SystemExit(main())
