"""Chains of slices against their whole, in a process of their own: a process can have one runtime only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, islice
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """How one model fared: what stopped it, where it can be cut, how many chains ran, what differed."""

    error: str
    legal: tuple[int, ...]
    chains: int
    differences: tuple[str, ...]


def run_chains(runtime: str, models: Sequence[bytes], *, frames: int, most: int = 12) -> list[Outcome]:
    """Cut each model at up to `most` combinations of up to three places; compare chain and whole over `frames`
    consecutive frames of random inputs, bit for bit.
    """
    task = json.dumps({"frames": frames, "most": most, "models": [data.hex() for data in models]})
    command = [sys.executable, "-m", "tests.converters.chains", runtime]
    done = subprocess.run(command, input=task, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    return [
        Outcome(row["error"], tuple(row["legal"]), row["chains"], tuple(row["differences"]))
        for row in json.loads(done.stdout)
    ]


def _child(runtime: str) -> None:
    from converters.graph import read_graph
    from converters.runtime import random_inputs
    from converters.shapes import resolve_shapes
    from converters.slicing import groups_at, legal_positions, slice_model
    from converters.verify import link, verify_chain
    from edge_node.runtime import open_interpreter
    from slicemq.errors import SliceMQError

    task = json.load(sys.stdin)
    load = partial(open_interpreter, runtime=runtime)
    rows = []
    for text in task["models"]:
        row: dict[str, Any] = {"error": "", "legal": [], "chains": 0, "differences": []}
        rows.append(row)
        data = bytes.fromhex(text)
        try:
            graph = resolve_shapes(data, read_graph(data), load)
            legal = legal_positions(graph)
            row["legal"] = list(legal)
            given = [(f"frame {i}", random_inputs(graph, i)) for i in range(task["frames"])]
            cuts = [islice(combinations(legal, n), task["most"] // 3) for n in range(1, 4)]
            for positions in [(), *(cut for some in cuts for cut in some)]:
                pieces = slice_model(data, graph, groups_at(graph, positions))
                report = verify_chain(data, graph, [link(piece) for piece in pieces], load, given)
                row["chains"] += 1
                row["differences"] += [f"{positions}: {difference}" for difference in report.differences[:1]]
        except SliceMQError as error:
            row["error"] = f"{type(error).__name__}: {error}"
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    _child(sys.argv[1])
