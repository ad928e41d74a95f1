"""The command line: one verb a file. Nothing imports it; it imports lazily from any room."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """The `slicemq` console script."""
    try:
        with _extra():
            from coordinator.cli.app import build
            from coordinator.cli.common import isolate
            from coordinator.cli.isolated import run
        isolate.set(run)
        build(sys.argv[1:])(prog_name="slicemq")
    except KeyboardInterrupt:
        # Before a verb has begun, while its modules are read.
        raise SystemExit(130) from None


def coordinator_main() -> None:
    """The `slicemq-coordinator` console script."""
    with _extra():
        from coordinator.cli.coordinator_run import console
    console()


@contextmanager
def _extra() -> Iterator[None]:
    """Say which extra is missing when a package of it is."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"slicemq: the command line needs the package {error.name}: pip install 'slicemq[coordinator]'\n"
        )
        raise SystemExit(4) from error
