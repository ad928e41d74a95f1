"""Cut a model into stages of about equal cost (pure): the least slowest stage, then the fewest bytes that cross."""

from __future__ import annotations

from itertools import accumulate, pairwise

from converters.graph import Graph
from converters.profile import Profile
from converters.slicing import legal_positions
from slicemq.errors import CutError

# How much slower than the best the slowest stage may be where that saves bytes.
SLACK = 1.05


def balanced_positions(graph: Graph, profile: Profile, stages: int) -> list[int]:
    """The positions that cut the model into `stages` slices (for `groups_at`).

    Raises CutError when the model has not that many places to cut.
    """
    legal = [0, *legal_positions(graph), len(graph.steps)]
    if not 1 <= stages < len(legal):
        raise CutError(f"{stages} stages: expected 1 to {len(legal) - 1}, the model has {len(legal) - 2} cuts")
    sums = list(accumulate((profile.seconds.get(step, 0.0) for step in graph.steps), initial=0.0))
    at = [sums[position] for position in legal]
    # Filling stages up to the mean always works within the mean and one item more: a bound to search below.
    bound = at[-1] / stages + max(b - a for a, b in pairwise(at))
    best = _split(at, [0.0] * len(legal), stages, bound * (1 + 1e-9))[0]
    crossing = [float(graph.crossing_bytes[position]) for position in legal]
    chosen = _split(at, crossing, stages, best * SLACK)[1]
    return [legal[i] for i in chosen]


def _split(at: list[float], weights: list[float], stages: int, limit: float) -> tuple[float, list[int]]:
    """(slowest stage, indices of the cuts) with each stage at most `limit`, by the least total weight of the cuts,
    then the least slowest stage; dynamic programming over (number of stages, place).
    """
    last = len(at) - 1
    nothing = (float("inf"), float("inf"))
    # row[j]: (weight, slowest) of the best split of at[0..j] into the stages so far; came[j]: its last cut.
    row = [(0.0, at[j]) if j and at[j] <= limit else nothing for j in range(last + 1)]
    history: list[list[int]] = []
    for _ in range(stages - 1):
        following = [nothing] * (last + 1)
        came = [0] * (last + 1)
        for j in range(2, last + 1):
            for i in range(j - 1, 0, -1):
                cost = at[j] - at[i]
                if cost > limit:
                    break
                candidate = (row[i][0] + weights[i], max(row[i][1], cost))
                if candidate < following[j]:
                    following[j], came[j] = candidate, i
        history.append(came)
        row = following
    cuts: list[int] = []
    place = last
    for came in reversed(history):
        place = came[place]
        cuts.append(place)
    return row[last][1], cuts[::-1]
