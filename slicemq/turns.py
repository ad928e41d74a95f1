"""Turns: which way through a revision a frame takes (docs/reference/protocol.md, "Turns"). PURE.

A revision of T turns has T ways through its slices; the frame with sequence number q takes turn q mod T. So clients
and nodes each know it alone, and agree whatever is lost or sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

# Each turn is a topic for each bundle, and a probe frame before the revision is used.
MAX_TURNS = 256


def turn_of(sequence: int, of: int) -> int | None:
    """The turn that a frame's data topics carry; None in a revision of one turn, whose topics carry none."""
    return sequence % of if of > 1 else None


def topic_turns(turns: Sequence[int], of: int) -> tuple[int | None, ...]:
    """The last levels of the data topics of these turns (None: no such level)."""
    return tuple(turns) if of > 1 else (None,)


def turns_fault(turns: Sequence[int], of: int) -> str:
    """What is wrong with these turns of `of`, or the empty text. They rise, so none is there twice."""
    if not 1 <= of <= MAX_TURNS:
        return f"expected 1 to {MAX_TURNS} turns in all, got {of}"
    if not turns:
        return "expected at least one turn"
    if not all(0 <= turn < of for turn in turns):
        return f"expected turns from 0 to {of - 1}"
    if any(later <= earlier for earlier, later in pairwise(turns)):
        return "expected rising turns"
    return ""
