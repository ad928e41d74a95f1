"""The health gate of a rollout: its policy, the evidence of clients, and what follows from both. PURE.

A candidate revision answers a share of the frames (canary) or copies of them (shadow). Clients say what they saw of
it every 2 s, nodes what their slices count. The gate waits for enough of both, and then says pass, or fail with a
reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slicemq.errors import ProtocolError
from slicemq.topics import is_id, is_revision

MOST_CLIENTS = 256
"""Clients whose evidence is kept; what others say is left out."""
MOST_REVISIONS = 8
"""Revisions that one message of evidence may speak of."""
_MOST_SECONDS = 604_800.0
_MOST_FRAMES = 1_000_000_000
_MOST_COUNT = float(1 << 63)


@dataclass(frozen=True)
class Policy:
    """How a revision takes over from the one before it.

    `shadow` and `canary` are shares of the frames (0: without it; a canary is the lighter of two, so below 0.5).
    Each of the two lasts at least `seconds` and `frames`; the whole rollout at most `deadline` seconds.
    `max_failed` is a share of the candidate's frames, `max_slowdown` its p95 over that of the revision before,
    `max_difference` max|a-b| / max|a| over a frame's outputs (None: not judged).
    """

    canary: float = 0.0
    shadow: float = 0.0
    frames: int = 100
    seconds: float = 10.0
    deadline: float = 600.0
    max_failed: float = 0.01
    max_slowdown: float = 2.0
    max_difference: float | None = None
    promote: Literal["auto", "manual"] = "auto"

    @property
    def steps(self) -> tuple[Literal["shadow", "canary"], ...]:
        """The steps between the probe and the promotion, in order."""
        return (*(("shadow",) if self.shadow > 0 else ()), *(("canary",) if self.canary > 0 else ()))


def policy_from_plain(body: Any, where: str) -> Policy:
    """The policy in a request. Raises ProtocolError that names the field below `where` and what was expected."""
    if not isinstance(body, dict):
        raise ProtocolError(f"{where}: expected an object, got {type(body).__name__}")
    known = Policy.__dataclass_fields__.keys()
    for name in body:
        if name not in known:
            raise ProtocolError(f"{where}: field {str(name)[:80]!r}: expected one of {', '.join(known)}")
    given = {name: value for name, value in body.items() if value is not None}
    bounds: dict[str, tuple[float, float, str]] = {
        "canary": (0.0, math.nextafter(0.5, 0.0), "a share from 0 to below 0.5"),
        "shadow": (0.0, 1.0, "a share from 0 to 1"),
        "seconds": (0.0, _MOST_SECONDS, f"seconds from 0 to {_MOST_SECONDS:.0f}"),
        "deadline": (1.0, _MOST_SECONDS, f"seconds from 1 to {_MOST_SECONDS:.0f}"),
        "max_failed": (0.0, 1.0, "a share from 0 to 1"),
        "max_slowdown": (1.0, 1e6, "a factor from 1 to 1000000"),
        "max_difference": (0.0, math.inf, "0 or more"),
    }
    for name, (least, most, expected) in bounds.items():
        if name in given:
            given[name] = _number(given[name], least, most, f"{where}: field {name}", expected)
    frames = given.get("frames", 1)
    if isinstance(frames, bool) or not isinstance(frames, int) or not 1 <= frames <= _MOST_FRAMES:
        raise ProtocolError(f"{where}: field frames: expected a whole number from 1 to {_MOST_FRAMES}")
    if given.get("promote", "auto") not in ("auto", "manual"):
        raise ProtocolError(f"{where}: field promote: expected auto or manual, got {str(given['promote'])[:80]!r}")
    policy = Policy(**given)
    if policy.promote == "manual" and not policy.steps:
        raise ProtocolError(f"{where}: field promote: manual needs a canary or a shadow to wait in")
    if policy.deadline <= policy.seconds * len(policy.steps):
        raise ProtocolError(
            f"{where}: field deadline: expected more than the least time of its steps, "
            f"{policy.seconds * len(policy.steps):g} s, got {policy.deadline:g}"
        )
    return policy


@dataclass(frozen=True)
class Seen:
    """What a client says of one revision: counts of its life, times in ms of its last window (0: no frame)."""

    answered: float = 0.0
    failed: float = 0.0
    p95_ms: float = 0.0


@dataclass(frozen=True)
class ShadowSeen:
    """What a client says of a shadow: `worst` is the greatest difference of its life so far."""

    revision: str
    sent: float = 0.0
    compared: float = 0.0
    failed: float = 0.0
    worst: float = 0.0
    p95_ms: float = 0.0


@dataclass(frozen=True)
class Testimony:
    """One client's evidence of one pipeline."""

    client: str
    pipeline: str
    figures: Mapping[str, Seen]
    shadow: ShadowSeen | None


def read_testimony(client: str, body: Any, where: str) -> Testimony:
    """The body of an `evidence` request. Raises ProtocolError that names the field and what was expected."""
    if not isinstance(body, dict):
        raise ProtocolError(f"{where}: expected an object, got {type(body).__name__}")
    pipeline = body.get("pipeline")
    if not isinstance(pipeline, str) or not is_id(pipeline):
        raise ProtocolError(f"{where}: field pipeline: expected a pipeline's id, got {str(pipeline)[:80]!r}")
    figures = body.get("figures", {})
    if not isinstance(figures, dict) or len(figures) > MOST_REVISIONS:
        raise ProtocolError(f"{where}: field figures: expected an object of at most {MOST_REVISIONS} revisions")
    seen = {}
    for revision, entry in figures.items():
        field_ = f"{where}: field figures.{str(revision)[:80]}"
        _revision(revision, field_)
        answered, failed, p95 = _figures(entry, ("answered", "failed", "p95_ms"), field_)
        seen[revision] = Seen(answered, failed, p95)
    shadow = body.get("shadow")
    if shadow is None:
        return Testimony(client, pipeline, seen, None)
    field_ = f"{where}: field shadow"
    sent, compared, failed, p95 = _figures(shadow, ("sent", "compared", "failed", "p95_ms"), field_)
    # Outputs of which one is finite and the other is not differ without a bound; JSON has no word for that.
    worst = math.inf if shadow.get("worst", 0.0) is None else _figures(shadow, ("worst",), field_)[0]
    return Testimony(
        client,
        pipeline,
        seen,
        ShadowSeen(_revision(shadow.get("revision"), field_), sent, compared, failed, worst, p95),
    )


def _revision(value: Any, where: str) -> str:
    if not isinstance(value, str) or not is_revision(value):
        raise ProtocolError(f"{where}: expected a revision, <n>-<8 hex>")
    return value


def _figures(entry: Any, names: tuple[str, ...], where: str) -> list[float]:
    if not isinstance(entry, dict):
        raise ProtocolError(f"{where}: expected an object, got {type(entry).__name__}")
    return [
        _number(entry.get(name, 0.0), 0.0, _MOST_COUNT, f"{where}.{name}", "a finite number, 0 or more")
        for name in names
    ]


def _number(value: Any, least: float, most: float, where: str, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ProtocolError(f"{where}: expected {expected}, got {type(value).__name__}")
    # An integer may be too large for a float; the comparison is exact.
    if not least <= value <= most or value == math.inf:
        raise ProtocolError(f"{where}: expected {expected}, got {str(value)[:80]}")
    return float(value)


@dataclass
class _Sum:
    """Frames of one revision over all clients; `slow` is the sum of windows' p95 by their `weight` in frames."""

    answered: float = 0.0
    failed: float = 0.0
    slow: float = 0.0
    weight: float = 0.0

    @property
    def p95_ms(self) -> float:
        return self.slow / self.weight if self.weight > 0 else 0.0


@dataclass
class Evidence:
    """What clients and nodes say while `candidate` runs beside `before`, since the step began.

    Counts that clients send are of their lives; of the revision before only what came on top since the step began
    counts.
    """

    before: str
    candidate: str
    step: Literal["shadow", "canary"]
    slices_done: float = 0.0
    slices_failed: float = 0.0
    _sums: dict[str, _Sum] = field(default_factory=dict)
    _last: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    _clients: set[str] = field(default_factory=set)
    _worst: float = 0.0
    _shown: float = -math.inf

    def hear(self, testimony: Testimony) -> bool:
        """Take in what a client says; whether it says anything of the candidate."""
        if testimony.client not in self._clients and len(self._clients) >= MOST_CLIENTS:
            return False
        told = False
        for revision, seen in testimony.figures.items():
            if revision == self.before or (revision == self.candidate and self.step == "canary"):
                self._add(testimony.client, revision, seen)
                told |= revision == self.candidate
        shadow = testimony.shadow
        if shadow is not None and shadow.revision == self.candidate and self.step == "shadow":
            self._add(testimony.client, self.candidate, Seen(shadow.compared, shadow.failed, shadow.p95_ms))
            self._worst = max(self._worst, shadow.worst)
            told = True
        return told

    def _add(self, client: str, revision: str, seen: Seen) -> None:
        self._clients.add(client)
        # A client's first word of the candidate is all about it; of what served before, of times before it.
        first = (0.0, 0.0) if revision == self.candidate else (seen.answered, seen.failed)
        before = self._last.get((client, revision), first)
        if seen.answered < before[0] or seen.failed < before[1]:
            before = (0.0, 0.0)
        self._last[client, revision] = (seen.answered, seen.failed)
        answered, failed = seen.answered - before[0], seen.failed - before[1]
        total = self._sums.setdefault(revision, _Sum())
        total.answered += answered
        total.failed += failed
        if seen.p95_ms > 0:
            weight = max(1.0, answered)
            total.slow += seen.p95_ms * weight
            total.weight += weight

    def slices(self, counts: Iterable[tuple[float, float]]) -> None:
        """What the nodes count of each of the candidate's slices: frames done, frames ended with an error."""
        self.slices_done, self.slices_failed = max(
            counts, key=lambda one: (one[1] / max(1.0, sum(one)), one[0]), default=(0.0, 0.0)
        )

    def due(self, now: float, every: float) -> bool:
        """Whether the figures are to be shown again: at most once in `every` seconds."""
        if now - self._shown < every:
            return False
        self._shown = now
        return True

    def figures(self) -> dict[str, float]:
        """The numbers to show; every one is finite."""
        mine, old = self._sums.get(self.candidate, _Sum()), self._sums.get(self.before, _Sum())
        found = {
            "clients": float(len(self._clients)),
            "answered": mine.answered,
            "failed": mine.failed,
            "p95_ms": mine.p95_ms,
            "before_answered": old.answered,
            "before_failed": old.failed,
            "before_p95_ms": old.p95_ms,
            "difference": self._worst,
            "slices_failed": self.slices_failed,
        }
        return {name: float(f"{min(value, 1e300):.6g}") for name, value in found.items()}

    @property
    def frames(self) -> float:
        """The candidate's frames that ended."""
        mine = self._sums.get(self.candidate, _Sum())
        return mine.answered + mine.failed

    def judge(self, policy: Policy, seconds: float) -> Verdict:
        """What follows after so many seconds of the step."""
        mine, old = self._sums.get(self.candidate, _Sum()), self._sums.get(self.before, _Sum())
        least = float(policy.frames)
        # What fails too often for any number of frames that may still come within the least needs no more of them.
        seen = max(self.frames, least)
        if mine.failed > policy.max_failed * seen:
            return Verdict(
                "fail",
                f"{mine.failed:.0f} of {self.frames:.0f} frames failed, at most {policy.max_failed:g} of them may",
            )
        if self.slices_failed > policy.max_failed * max(self.slices_done + self.slices_failed, least):
            return Verdict(
                "fail",
                f"a slice ended {self.slices_failed:.0f} of {self.slices_done + self.slices_failed:.0f} frames "
                f"with an error, at most {policy.max_failed:g} of them may",
            )
        if policy.max_difference is not None and self._worst > policy.max_difference:
            return Verdict("fail", f"results differ by {self._worst:.3g}, at most {policy.max_difference:g} may be")
        if self.frames < least:
            return Verdict("wait", f"{self.frames:.0f} of {policy.frames} frames")
        if old.p95_ms > 0 and mine.p95_ms > policy.max_slowdown * old.p95_ms:
            return Verdict(
                "fail",
                f"95 % of its frames take {mine.p95_ms:.4g} ms, {mine.p95_ms / old.p95_ms:.3g} times the "
                f"{old.p95_ms:.4g} ms of {self.before}, at most {policy.max_slowdown:g} times may be",
            )
        if seconds < policy.seconds:
            return Verdict("wait", f"{seconds:.0f} of {policy.seconds:g} s")
        return Verdict("pass", f"{self.frames:.0f} frames in {seconds:.0f} s")


@dataclass(frozen=True)
class Verdict:
    """`reason` says what is waited for, what passed, or what failed."""

    word: Literal["wait", "pass", "fail"]
    reason: str
