"""The program `slicemq-ingress` (and `slicemq ingress run`, `slicemq ingress retire`)."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ingress.config import IngressConfig, load_config, load_retirement, run_arguments
from ingress.pictures import pillow
from slicemq.errors import MissingDependencyError, SliceMQError
from slicemq.log import setup_logging

if TYPE_CHECKING:
    from types import FrameType


def main(words: Sequence[str] | None = None, *, prog: str = "slicemq-ingress") -> int:
    """Run an ingress with the command line `words` (without the program's name); gives the exit code."""
    return _ended(prog, lambda: _run(prog, sys.argv[1:] if words is None else words))


def retire_main(words: Sequence[str], *, prog: str) -> int:
    """Forget an ingress; gives the exit code."""
    return _ended(prog, lambda: _retire(prog, words))


def _ended(prog: str, body: Callable[[], None]) -> int:
    try:
        body()
    except SliceMQError as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _run(prog: str, words: Sequence[str]) -> None:
    arguments = run_arguments(prog, words)
    config = load_config(arguments)
    config.broker_options()
    if config.input_kind == "image":
        pillow()
    if arguments.check_config:
        sys.stdout.write(config.shown())
        return
    setup_logging(config.log_level, config.log_format)
    if config.input_kind == "auto":
        try:
            pillow()
        except MissingDependencyError as error:
            sys.stderr.write(f"{prog}: no JPEG and PNG on this stream: {error}\n")
    # Not needed, and not imported, for --help and --check-config.
    from ingress.service import IngressService

    stop = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    IngressService(config, on_ready=lambda: _say_ready(config, arguments.format)).run(stop)


def _say_ready(config: IngressConfig, form: str) -> None:
    """One line on standard output; nobody has to read it."""
    where = config.broker_options().describe()
    body = {
        "state": "ready",
        "ingress": config.id,
        "pipeline": config.pipeline,
        "cluster": config.cluster,
        "broker": where,
        "from": config.source,
        "to": config.target,
    }
    text = f"ready: {config.source} -> {config.pipeline} -> {config.target} at {where} (ingress {config.id})"
    with contextlib.suppress(OSError):
        print(json.dumps(body) if form == "json" else text, flush=True)  # noqa: T201


def _retire(prog: str, words: Sequence[str]) -> None:
    which, arguments = load_retirement(prog, words)
    setup_logging(which.log_level, which.log_format)
    from ingress.retire import retire

    there = retire(which, force=arguments.force)
    text = f"ingress {which.id}: " + ("its session is deleted" if there else "there was no session")
    shown = json.dumps({"ingress": which.id, "session": there}) if arguments.format == "json" else text
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
