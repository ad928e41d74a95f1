"""Treating nodes that are nearly alike as one kind, so that a question has few states (PURE)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coordinator.planner.methods.reach import state_count
from coordinator.planner.tables.segments import Table


def merge_alike(
    masks: npt.NDArray[np.bool_],
    groups: Sequence[Sequence[int]],
    counts: Sequence[int],
    alone: frozenset[int],
    states: int,
) -> list[list[int]]:
    """Merge the two most alike groups of types until at most `states` states are left.

    `masks[type]` are the segments that a type can run, `counts[type]` its nodes; groups are alike when they
    differ in few segments. Types in `alone` stay by themselves.
    """
    merged = [list(group) for group in groups]

    def too_many() -> bool:
        return state_count([sum(counts[k] for k in group) for group in merged]) > states

    if not too_many():
        return merged
    apart = _distances(np.stack([masks[group[0]] for group in merged]))
    for number, group in enumerate(merged):
        if alone & set(group):
            apart[number, :] = apart[:, number] = np.inf
    while too_many():
        b, a = sorted(int(x) for x in np.unravel_index(np.argmin(apart), apart.shape))
        if not np.isfinite(apart[a, b]):
            break
        share = len(merged[a]) / (len(merged[a]) + len(merged[b]))
        mixed = share * apart[a] + (1 - share) * apart[b]
        apart[b, :] = apart[:, b] = mixed
        apart[b, b] = np.inf
        apart = np.delete(np.delete(apart, a, axis=0), a, axis=1)
        merged[b] += merged[a]
        del merged[a]
    return merged


def _distances(masks: npt.NDArray[np.bool_]) -> Table:
    """In how many segments each two masks differ; infinite on the diagonal."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    sizes = flat.sum(axis=1)
    apart: Table = (sizes[:, None] + sizes[None, :] - 2 * flat @ flat.T).astype(np.float64)
    np.fill_diagonal(apart, np.inf)
    return apart
