"""The node's last assignment on disk, for a start at which nobody says what to run: no coordinator, and a broker
that has lost what was retained.

It is handed to the agent as if it had come again, some time after the node has joined and only when none has come.
The agent's own comparison of stamps (protocol rule 21) decides when one comes later.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from slicemq.errors import ProtocolError
from slicemq.messages import MAX_DOCUMENT_BYTES, Assignment, Stamp, decode, encode

logger = logging.getLogger("slicemq.node")

PATIENCE = 3.0
"""Seconds that a node which has joined waits for an assignment; a coordinator that is there answers sooner."""


class Committed:
    """`<folder>/assignment-<cluster>.json`. Damaged, another node's or none at all, it counts as none."""

    def __init__(self, folder: Path, cluster: str, node: str) -> None:
        self._path = folder / f"assignment-{cluster}.json"
        self._node = node
        self._kept = self._read()
        self._newest: Stamp | None = None
        self._told = False
        self._due: float | None = None

    @property
    def kept(self) -> Assignment | None:
        """The newest assignment that was kept."""
        return self._kept

    def joined(self, now: float) -> None:
        """The node listens to its assignment from now on (monotonic seconds)."""
        self._due = now + PATIENCE

    def received(self, assignment: Assignment) -> None:
        """Keep an assignment that came, unless a newer one has come. A disk that is full is logged once."""
        self._due = None
        if self._newest is not None and assignment.stamp <= self._newest:
            return
        self._newest = assignment.stamp
        if assignment == self._kept:
            return
        self._kept = assignment
        temporary = self._path.with_suffix(".new")
        try:
            with open(temporary, "wb") as file:
                file.write(encode(assignment))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
            self._told = False
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if not self._told:
                self._told = True
                logger.warning("%s: the assignment is not kept for a restart: %s", self._path, error.strerror)

    def due(self, now: float) -> Assignment | None:
        """What was kept, once, when the patience is over."""
        if self._due is None or now < self._due:
            return None
        self._due = None
        return self._kept

    def _read(self) -> Assignment | None:
        try:
            with open(self._path, "rb") as file:
                found = decode(Assignment, file.read(MAX_DOCUMENT_BYTES + 1), str(self._path))
        except FileNotFoundError:
            return None
        except (OSError, ProtocolError) as error:
            logger.warning("the assignment that was kept is not used: %s", error)
            return None
        return found if found.node == self._node else None
