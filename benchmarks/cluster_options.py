"""The options that the benchmarks on emulated clusters share."""

from __future__ import annotations

import argparse


def cluster_parser(
    name: str, text: str | None, *, share: float, repeats: int | None = 3
) -> argparse.ArgumentParser:
    """A parser for `python -m benchmarks.<name>` with the options that all of them have.

    share: the default share of a core of each node; repeats: the default number of rounds (None: no such option).
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=share, help="share of a core for each node")
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help="rounds, whose medians count")
    parser.add_argument("--fresh", action="store_true", help="measure anew what is kept, too")
    parser.add_argument("--loopback", action="store_true", help="without namespaces and link rates")
    parser.add_argument(
        "--write", action="store_true", help="write what is found into docs/explanation/performance.md"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser


def add_chain_options(parser: argparse.ArgumentParser, *, seconds: float | None, budget: float) -> None:
    """What the benchmarks of chains of several lengths have besides."""
    parser.add_argument("--budget", type=float, default=budget, help="error that codecs may make (0: lossless)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="length of one run; one node: 1.6 times that"
    )
    parser.add_argument(
        "--learn",
        type=int,
        default=110,
        help="frames that nodes run before a plan is made again (0: the first plan)",
    )
    parser.add_argument("--stages", action="store_true", help="print where the time goes in each stage, too")
