"""What a plan is made for: the objective, and limits on the others (PURE)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Objective = Literal["throughput", "latency", "nodes", "energy"]
OBJECTIVES: tuple[Objective, ...] = ("throughput", "latency", "nodes", "energy")
ENOUGH = 1e-3
"""Plans whose objective is within this share of the best count as equal, unless the user states another share."""


@dataclass(frozen=True)
class Goal:
    """What is made least (`throughput`: the period), with limits on the others.

    `within`: among the plans within this share of the best objective, those that ship the fewest bytes are
    taken, then those on the fewest nodes, then those of the least latency. `error_budget`: the largest sum of the
    errors of lossy codecs (0: lossless only).
    """

    objective: Objective = "throughput"
    max_period: float = math.inf
    max_latency: float = math.inf
    max_nodes: int | None = None
    max_energy: float = math.inf
    error_budget: float = 0.0
    within: float = ENOUGH
