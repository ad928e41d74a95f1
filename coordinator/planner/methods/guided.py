"""Plans of large problems by a beam search that prices guide (PURE).

At a period just below the bound, the flow program's prices say how scarce each node is. Of the partial plans that
end at a state, those that have paid least are kept, no two with the same nodes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.planner.methods.flow import Flow, Prices
from coordinator.planner.methods.reach import Segments

WIDTH = 40
"""How many partial plans each state keeps."""
PER_END = 6
"""For each next state, how many types a partial plan may take: the cheapest ones."""


def guided(flow: Flow, period: float, prices: Prices | None = None, width: int = WIDTH) -> Segments | None:
    """A plan within `period`, or None: none was found. Limits other than nodes and slices are not looked at."""
    costs = flow.costs
    n, counts = costs.n, [kind.count for kind in costs.types]
    share = 1.0 / sum(counts)
    # A node that costs nothing is still one node less.
    paid = np.full(len(counts), share) if prices is None else prices.kinds + 0.01 * share
    allowed = np.stack([flow.allowed(k, period) for k in range(len(counts))])
    rest = _rest(allowed, paid)
    order = np.argsort(paid, kind="stable")
    able = allowed[order]
    # Per state: (paid, how many of each type, the partial plan before, the arc).
    kept: list[dict[bytes, tuple[float, npt.NDArray[np.int16], bytes, tuple[int, int, int]]]] = [
        {} for _ in range(n + 1)
    ]
    nobody = np.zeros(len(counts), dtype=np.int16)
    kept[0][nobody.tobytes()] = (0.0, nobody, b"", (0, 0, -1))
    for s in range(n):
        if len(kept[s]) > width:
            best = sorted(kept[s], key=lambda key: kept[s][key][0])[:width]
            kept[s] = {key: kept[s][key] for key in best}
        ends = [j for j in np.flatnonzero(able[:, s].any(axis=0)).tolist() if np.isfinite(rest[j])]
        for key, (spent, used, _, _) in kept[s].items():
            if used.sum() >= costs.max_slices:
                continue
            free = used[order] < np.array(counts)[order]
            for j in ends:
                for place in np.flatnonzero(able[:, s, j] & free)[:PER_END].tolist():
                    k = int(order[place])
                    more = used.copy()
                    more[k] += 1
                    code, total = more.tobytes(), spent + float(paid[k])
                    known = kept[j].get(code)
                    if known is None or total < known[0]:
                        kept[j][code] = (total, more, key, (s, j, k))
    if not kept[n]:
        return None
    segments: Segments = []
    key = min(kept[n], key=lambda key: kept[n][key][0])
    end = n
    while end:
        _, _, before, arc = kept[end][key]
        segments.append(arc)
        key, end = before, arc[0]
    return segments[::-1]


def _rest(allowed: npt.NDArray[np.bool_], paid: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What the way from each state to the end costs at least."""
    n = allowed.shape[1] - 1
    least = np.where(allowed, paid[:, None, None], np.inf).min(axis=0)
    rest = np.full(n + 1, np.inf)
    rest[n] = 0.0
    for j in range(n, 0, -1):
        rest[:j] = np.minimum(rest[:j], rest[j] + least[:j, j])
    return rest
