"""The command line: one verb a file. Nothing imports it; it imports lazily from any room."""

from __future__ import annotations

import sys


def main() -> None:
    """The `slicemq` console script."""
    try:
        from coordinator.cli.app import build
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"slicemq: the command line needs the package {error.name}: pip install 'slicemq[coordinator]'\n"
        )
        raise SystemExit(4) from error
    build(sys.argv[1:])(prog_name="slicemq")
