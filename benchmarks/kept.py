"""Measured rows that survive an interruption: JSON lines, found again by what was measured with which code."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from slicemq.errors import StoreError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache"
# What a frame passes through, and what plans it: a row measured with other code there is not taken again.
ROOMS = ("slicemq", "edge_node", "coordinator", "converters", "emulator")


class Kept:
    """Rows of one benchmark in `.cache/<name>.jsonl`. `fresh` takes none of the rows that are there.

    Rows that other code or another machine made stay in the file, and are not found.
    """

    def __init__(self, name: str, *, fresh: bool = False, folder: Path = FOLDER, digest: str | None = None) -> None:
        self.file = folder / f"{name}.jsonl"
        self._made_by = {"code": digest if digest is not None else code_digest(), "machine": describe_machine()}
        self._rows: dict[str, Any] = {}
        if not fresh:
            self._read()

    def get(self, key: Mapping[str, Any]) -> Any | None:
        """What was measured under `key`, or None."""
        return self._rows.get(self._text(key))

    def add(self, key: Mapping[str, Any], row: Any) -> None:
        """Keep a row at once. Raises StoreError when it cannot be written."""
        text = self._text(key)
        self._rows[text] = row
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a") as file:
                # A line that a killed run left unfinished must not swallow this one.
                file.write("\n" if self._unfinished() else "")
                file.write(json.dumps({"key": json.loads(text), "row": row}) + "\n")
        except OSError as error:
            raise StoreError(f"{self.file}: {error.strerror}") from error

    def _unfinished(self) -> bool:
        content = self.file.read_bytes()
        return bool(content) and not content.endswith(b"\n")

    def _read(self) -> None:
        try:
            lines = self.file.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            try:
                body = json.loads(line)
                self._rows[json.dumps(body["key"], sort_keys=True)] = body["row"]
            except (ValueError, KeyError, TypeError):
                # The last line of a run that was killed while it wrote.
                continue

    def _text(self, key: Mapping[str, Any]) -> str:
        return json.dumps({**key, **self._made_by}, sort_keys=True)


@functools.cache
def code_digest(root: Path = ROOT, rooms: tuple[str, ...] = ROOMS) -> str:
    """12 hex digits over the Python files of `rooms`."""
    total = hashlib.sha256()
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            total.update(f"{path.relative_to(root)}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]
