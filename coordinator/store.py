"""The coordinator's store: one JSON file, written anew and renamed at each change (protocol rule 24)."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from coordinator.gate import Policy
from coordinator.intents import Blueprint, Intent, PipelineRecord, Revision, Wish
from coordinator.rollout import MOST_KEPT, Rollout
from slicemq.errors import ProtocolError, StoreError
from slicemq.messages import from_plain
from slicemq.topics import is_id, is_revision

_FORMAT = 1
_KEPT_PHASES = ("shadow", "canary", "active", "draining", "lost")
T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """What a coordinator starts from: the highest term that it used, its pipelines, and what it learnt of nodes."""

    term: int
    records: tuple[PipelineRecord, ...]
    learnt: dict[str, Any] = field(default_factory=dict)


class Store:
    """`<folder>/state.json`. A file that cannot be read stops the coordinator: it holds what must not be lost."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"

    def load(self, now: float) -> Stored:
        """Read the store; an absent one is empty. Raises StoreError that names the file and the field."""
        text = self.content()
        if text is None:
            return Stored(0, ())
        try:
            return from_body(json.loads(text), now)
        except (ValueError, RecursionError, ProtocolError) as error:
            raise StoreError(
                f"{self._path}: not a coordinator's store: {error}. Move the file away to start without it; "
                "running pipelines are then taken over from their retained topics"
            ) from error

    def save(self, term: int, records: Iterable[PipelineRecord], learnt: Mapping[str, Any] | None = None) -> None:
        """Write the store and force it to the disk. Raises StoreError; the old file then stays."""
        self._write(json.dumps(to_body(term, records, learnt)).encode())

    def content(self) -> bytes | None:
        """The file's bytes; None when there is none. Raises StoreError when it cannot be read."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error

    def install(self, content: bytes) -> None:
        """Put another coordinator's store in place of this one. Raises StoreError for what is none."""
        try:
            from_body(json.loads(content), 0.0)
        except (ValueError, RecursionError, ProtocolError) as error:
            raise StoreError(f"what the other coordinator sent is not a store: {error}") from error
        self._write(content)

    def _write(self, content: bytes) -> None:
        temporary = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            # On a full disk even the half of a new file is space that others need.
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StoreError(f"{self._path}: {error.strerror}") from error


def to_body(
    term: int, records: Iterable[PipelineRecord], learnt: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the store's file holds, in JSON's terms."""
    pipelines = [_plain(record) for record in records if _matters(record)]
    return {"format": _FORMAT, "term": term, "pipelines": pipelines, "learnt": dict(learnt or {})}


def from_body(body: Any, now: float) -> Stored:
    """What `to_body` gave. Raises ProtocolError that names the field."""
    if not isinstance(body, dict) or body.get("format") != _FORMAT:
        raise ProtocolError(f"format: expected {_FORMAT}")
    pipelines = _field(body, "pipelines", list, "")
    records = tuple(_record(plain, now, f"pipelines[{i}]") for i, plain in enumerate(pipelines))
    if len({record.name for record in records}) < len(records):
        raise ProtocolError("pipelines: a name stands there twice")
    learnt = body.get("learnt")
    return Stored(_count(body, "term", ""), records, learnt if isinstance(learnt, dict) else {})


def _matters(record: PipelineRecord) -> bool:
    """Not so for a first deploy that still waits for its plan: it is not answered, so it is asked for again."""
    return record.intent is not None or record.highest > 0


def _plain(record: PipelineRecord) -> dict[str, Any]:
    kept = [r for r in record.revisions.values() if r.phase in _KEPT_PHASES]
    wished = _accepted(record)
    return {
        "name": record.name,
        "highest": record.highest,
        "resend": record.resend,
        "removed": record.removed_at is not None or record.intent is None,
        "status": record.status,
        "intent": asdict(record.intent) if record.intent is not None else None,
        "wish": asdict(wished) if wished is not None else None,
        "rollout": _rollout_plain(record.rollout) if record.rollout is not None else None,
        "history": [_rollout_plain(one) for one in record.history],
        "face": asdict(record.face) if record.face is not None else None,
        "revisions": [
            {
                "id": r.id,
                "phase": r.phase,
                "intent": asdict(r.intent),
                "blueprint": asdict(r.blueprint),
                "prepared_for": r.prepared_for,
                "factors": {slice_id: dict(of) for slice_id, of in r.factors.items()},
            }
            for r in kept
        ],
    }


def _rollout_plain(rollout: Rollout) -> dict[str, Any]:
    """Without what counts on the clock of this process: a step and its deadline begin anew with the next one."""
    plain = asdict(rollout)
    return {key: value for key, value in plain.items() if key not in ("since", "deadline", "passed")}


def _accepted(record: PipelineRecord) -> Intent | None:
    """What was promised to an operator and is not served yet: a restart must not forget it."""
    for wish in (record.wish, record.job_wish):
        if wish is not None and wish.requester is None and not wish.why:
            return wish.intent
    coming = record.coming
    return coming.intent if coming is not None and coming.intent != record.intent else None


def _record(plain: Any, now: float, where: str = "pipelines") -> PipelineRecord:
    name = _field(plain, "name", str, where)
    if not is_id(name):
        raise ProtocolError(f"{where}.name: {name[:80]!r} is not an id")
    where = f"pipelines.{name}"
    record = PipelineRecord(name, highest=_count(plain, "highest", where), resend=_count(plain, "resend", where))
    record.status = _field(plain, "status", str, where)
    record.removed_at = now if _field(plain, "removed", bool, where) else None
    if plain.get("intent") is not None:
        record.intent = _intent(plain, "intent", name, where)
    if plain.get("wish") is not None:
        record.wish = Wish(_intent(plain, "wish", name, where), None)
    _rollouts(record, plain, now, where)
    if plain.get("face") is not None:
        record.face = from_plain(Blueprint, plain["face"], f"{where}.face")
    for number, entry in enumerate(_field(plain, "revisions", list, where)):
        revision = _revision(entry, name, f"{where}.revisions[{number}]", now)
        record.revisions[revision.id] = revision
        # A number below one in use would be used twice (rule 1).
        record.highest = max(record.highest, int(revision.id.partition("-")[0]))
    rollout = record.rollout
    if rollout is not None and rollout.revision not in record.revisions:
        # What only prepared is prepared again, under a number of its own.
        record.rollout = replace(rollout, state="planning", revision="", tries=max(0, rollout.tries - 1))
        if record.wish is None and record.face is not None:
            record.wish = Wish(rollout.intent, None)
    return record


def _rollouts(record: PipelineRecord, plain: dict[str, Any], now: float, where: str) -> None:
    history = plain.get("history", [])
    if not isinstance(history, list):
        raise ProtocolError(f"{where}.history: expected list")
    record.history = tuple(
        from_plain(Rollout, entry, f"{where}.history[{number}]") for number, entry in enumerate(history)
    )[-MOST_KEPT:]
    if plain.get("rollout") is not None:
        rollout = from_plain(Rollout, plain["rollout"], f"{where}.rollout")
        within = rollout.policy.deadline if isinstance(rollout.policy, Policy) else math.inf
        record.rollout = replace(rollout, since=now, deadline=now + within)


def _revision(entry: Any, name: str, where: str, now: float) -> Revision:
    revision_id, phase = _field(entry, "id", str, where), _field(entry, "phase", str, where)
    if not is_revision(revision_id):
        raise ProtocolError(f"{where}.id: {revision_id[:80]!r} is not <n>-<8 hex>")
    if phase not in _KEPT_PHASES:
        raise ProtocolError(f"{where}.phase: expected one of {', '.join(_KEPT_PHASES)}, got {phase[:80]!r}")
    return Revision(
        revision_id,
        _intent(entry, "intent", name, where),
        from_plain(Blueprint, entry.get("blueprint"), f"{where}.blueprint"),
        phase=phase,  # type: ignore[arg-type]
        since=now,
        deadline=now + 30.0 if phase == "draining" else math.inf,
        prepared_for=str(entry.get("prepared_for", "")),
        factors=_factors(entry.get("factors", {}), f"{where}.factors"),
    )


def _factors(plain: Any, where: str) -> dict[str, dict[str, float]]:
    """Slice -> node -> factor."""
    entries = plain.values() if isinstance(plain, dict) else [None]
    if not all(isinstance(of, dict) and all(map(_is_factor, of.values())) for of in entries):
        raise ProtocolError(f"{where}: expected positive numbers by slice and node")
    return {slice_id: dict(of) for slice_id, of in plain.items()}


def _is_factor(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 < value < math.inf


def _intent(plain: dict[str, Any], key: str, name: str, where: str) -> Intent:
    intent = from_plain(Intent, plain.get(key), f"{where}.{key}")
    if intent.name != name:
        raise ProtocolError(f"{where}.{key}.name: expected {name!r}, got {intent.name[:80]!r}")
    return intent


def _field(plain: Any, key: str, kind: type[T], where: str) -> T:
    if not isinstance(plain, dict):
        raise ProtocolError(f"{where}: expected an object, got {type(plain).__name__}")
    value = plain.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError(f"{where}{'.' if where else ''}{key}: expected {kind.__name__}, got {value!r:.80}")
    return value


def _count(plain: Any, key: str, where: str) -> int:
    value = _field(plain, key, int, where)
    if not 0 <= value < 1 << 63:
        raise ProtocolError(f"{where}{'.' if where else ''}{key}: expected 0 or more, got {value}")
    return value
