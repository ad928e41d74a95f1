"""How fast a client goes: its share of the window, and when an unanswered frame is sent again.

PURE: times come in; what looks random is computed from the frame's name.
"""

from __future__ import annotations

FIRST_RESEND_AFTER = 10.0
LEAST_RESEND_AFTER = 2.0
MOST_RESEND_AFTER = 60.0
_SMOOTHING = 1 / 8
_JITTER = 0.25
_U64 = (1 << 64) - 1


def spread(stream: int, sequence: int, salt: int) -> float:
    """A number in [0, 1) that looks random and depends on the arguments alone (the mixer of SplitMix64)."""
    value = (stream + 0x9E3779B97F4A7C15 * (sequence * 64 + salt + 1)) & _U64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _U64
    return float((value ^ (value >> 31)) >> 11) / float(1 << 53)


class Window:
    """How many frames a client may hold; `share` is what the pipeline grants, `size` what is used (1 .. share).

    Additive increase and multiplicative decrease, as in Chiu and Jain, "Analysis of the increase and decrease
    algorithms for congestion avoidance in computer networks" (1989), with one cut per window as in TCP.
    """

    def __init__(self) -> None:
        self.share = 1
        self._limit = 1.0
        self._cut_at = float("-inf")

    @property
    def size(self) -> int:
        """Frames that may be held now, at least 1."""
        return max(1, int(self._limit))

    def grant(self, window: int, clients: int) -> None:
        """Take the pipeline's total `window` and the number of `clients` that share it."""
        share = max(1, window // max(1, clients))
        self._limit = float(share) if self._limit >= self.share else min(self._limit, float(share))
        self.share = share

    def answered(self) -> None:
        """A result has come: the limit grows by one for each window of results, up to the share."""
        self._limit = min(float(self.share), self._limit + 1.0 / self.size)

    def missed(self, now: float, sent: float) -> None:
        """A frame sent at `sent` missed its deadline: halve, once for all that were sent before the last cut."""
        if sent >= self._cut_at:
            self._limit = max(1.0, self._limit / 2.0)
            self._cut_at = now


class Deadlines:
    """When a frame is sent again: `resend_after` seconds, or by default 4 x the smoothed latency within 2 .. 60 s.

    Before the first result the default is 10 s. Each missed deadline doubles it, up to 60 s (or `resend_after`
    when that is longer); up to a quarter is added as jitter, so that clients do not send again in step.
    """

    def __init__(self, resend_after: float | None) -> None:
        self._fixed = resend_after
        self._latency: float | None = None

    def observe(self, latency: float) -> None:
        """A result came `latency` seconds after its frame was first sent to the revision that answered."""
        old = self._latency
        self._latency = latency if old is None else old + _SMOOTHING * (latency - old)

    def interval(self, misses: int, mark: float) -> float:
        """Seconds until the next attempt after `misses` missed deadlines; `mark` in [0, 1) sets the jitter."""
        if self._fixed is not None:
            base = self._fixed
        elif self._latency is None:
            base = FIRST_RESEND_AFTER
        else:
            base = min(max(LEAST_RESEND_AFTER, 4 * self._latency), MOST_RESEND_AFTER)
        return min(base * 2.0 ** min(misses, 30), max(base, MOST_RESEND_AFTER)) * (1 + _JITTER * mark)
