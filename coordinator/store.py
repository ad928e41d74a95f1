"""The coordinator's store: one JSON file, written anew and renamed at each change (protocol rule 24)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordinator.intents import Blueprint, Intent, PipelineRecord, Revision, Wish
from slicemq.errors import ProtocolError, StoreError
from slicemq.messages import from_plain

_FORMAT = 1


@dataclass(frozen=True)
class Stored:
    """What a coordinator starts from: the highest term that it used, and its pipelines."""

    term: int
    records: tuple[PipelineRecord, ...]


class Store:
    """`<folder>/state.json`. A file that cannot be read stops the coordinator: it holds what must not be lost."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"

    def load(self, now: float) -> Stored:
        """Read the store; an absent one is empty. Raises StoreError that names the file and the field."""
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return Stored(0, ())
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error
        try:
            body = json.loads(text)
            if not isinstance(body, dict) or body.get("format") != _FORMAT:
                raise ProtocolError(f"format: expected {_FORMAT}")
            records = tuple(_record(plain, now) for plain in body["pipelines"])
            return Stored(int(body["term"]), records)
        except (ValueError, KeyError, TypeError, ProtocolError) as error:
            raise StoreError(
                f"{self._path}: not a coordinator's store: {error}. Move the file away to start without it; "
                "running pipelines are then taken over from their retained topics"
            ) from error

    def save(self, term: int, records: Iterable[PipelineRecord]) -> None:
        """Write the store and force it to the disk. Raises StoreError; the old file then stays."""
        body = {"format": _FORMAT, "term": term, "pipelines": [_plain(r) for r in records if _matters(r)]}
        temporary = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "w") as file:
                json.dump(body, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error


def _matters(record: PipelineRecord) -> bool:
    """Not so for a first deploy that still waits for its plan: it is not answered, so it is asked for again."""
    return record.intent is not None or record.highest > 0


def _plain(record: PipelineRecord) -> dict[str, Any]:
    kept = [r for r in record.revisions.values() if r.phase in ("active", "draining", "lost")]
    wished = _accepted(record)
    return {
        "name": record.name,
        "highest": record.highest,
        "resend": record.resend,
        "removed": record.removed_at is not None or record.intent is None,
        "status": record.status,
        "intent": asdict(record.intent) if record.intent is not None else None,
        "wish": asdict(wished) if wished is not None else None,
        "face": asdict(record.face) if record.face is not None else None,
        "revisions": [
            {"id": r.id, "phase": r.phase, "intent": asdict(r.intent), "blueprint": asdict(r.blueprint)}
            for r in kept
        ],
    }


def _accepted(record: PipelineRecord) -> Intent | None:
    """What was promised to an operator and is not served yet: a restart must not forget it."""
    for wish in (record.wish, record.job_wish):
        if wish is not None and wish.requester is None:
            return wish.intent
    coming = record.coming
    return coming.intent if coming is not None and coming.intent != record.intent else None


def _record(plain: dict[str, Any], now: float) -> PipelineRecord:
    name = plain["name"]
    record = PipelineRecord(name, highest=int(plain["highest"]), resend=int(plain["resend"]))
    record.status = str(plain["status"])
    record.removed_at = now if plain["removed"] else None
    if plain["intent"] is not None:
        record.intent = from_plain(Intent, plain["intent"], f"pipelines.{name}.intent")
    if plain.get("wish") is not None:
        record.wish = Wish(from_plain(Intent, plain["wish"], f"pipelines.{name}.wish"), None)
    if plain["face"] is not None:
        record.face = from_plain(Blueprint, plain["face"], f"pipelines.{name}.face")
    for entry in plain["revisions"]:
        where = f"pipelines.{name}.revisions.{entry['id']}"
        if entry["phase"] not in ("active", "draining", "lost"):
            raise ProtocolError(f"{where}.phase: {entry['phase']!r}")
        revision = Revision(
            entry["id"],
            from_plain(Intent, entry["intent"], where + ".intent"),
            from_plain(Blueprint, entry["blueprint"], where + ".blueprint"),
            phase=entry["phase"],
            since=now,
            deadline=now + 30.0 if entry["phase"] == "draining" else math.inf,
        )
        record.revisions[revision.id] = revision
    return record
