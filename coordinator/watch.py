"""What to roll out of a watched folder: listings, contents and what runs come in, decisions go out. PURE.

`DIR/<pipeline>.tflite` is a pipeline's model, or `DIR/<pipeline>/<version>.tflite`, of which the highest version
counts (numbers in it compare as numbers: 9 < 10). A file is read when it has stood still for a while.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from slicemq.topics import is_id

SUFFIX = ".tflite"
MOST_FILES = 4096
_RETRY_FIRST = 5.0
_RETRY_MOST = 60.0


@dataclass(frozen=True)
class Found:
    """A file in a listing: its place below the folder (`faces/3.tflite`), bytes, Unix time of its last change."""

    path: str
    size: int
    changed: float


@dataclass(frozen=True)
class Served:
    """What the coordinator's documents say of one pipeline.

    `models` (SHA-256) run or are being rolled out; `tried` has, for each model of its history, when it was last
    begun (Unix time).
    """

    models: frozenset[str] = frozenset()
    tried: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Read:
    """Read this file, check that it is a model, and answer with `Watch.on_read`."""

    found: Found


@dataclass(frozen=True)
class Deploy:
    """Roll this file out under `pipeline`, and answer with `Watch.on_failed` when that fails."""

    pipeline: str
    found: Found
    sha256: str


@dataclass(frozen=True)
class Say:
    """Tell the operator what is wrong; each thing comes once."""

    text: str


Step = Read | Deploy | Say


@dataclass
class _Content:
    sha256: str = ""
    fault: str = ""


@dataclass
class _Taken:
    """What was last rolled out of a pipeline's files; with `retry_at` it shall be tried again."""

    sha256: str
    retry_at: float = math.inf
    failures: int = 0


class Watch:
    """The decisions of one watcher. `settle`: seconds for which a file must stand still. Times are monotonic."""

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._since: dict[Found, float] = {}
        self._contents: dict[Found, _Content] = {}
        self._reading: set[Found] = set()
        self._taken: dict[str, _Taken] = {}
        self._said: set[str] = set()

    def look(self, now: float, listing: Iterable[Found], served: Mapping[str, Served]) -> list[Step]:
        """What to do about the folder as it is at `now`."""
        files = list(listing)
        if len(files) > MOST_FILES:
            return self._say([f"{len(files)} files, expected at most {MOST_FILES}: nothing is rolled out"])
        self._since = {found: self._since.get(found, now) for found in files}
        self._contents = {found: self._contents[found] for found in files if found in self._contents}
        self._reading &= set(files)
        pipelines, faults = by_pipeline(files)
        steps: list[Step] = []
        for name, versions in pipelines.items():
            steps += self._pipeline(now, name, versions, served.get(name, Served()), faults)
        # What is wrong no more may be said again when it comes back.
        self._said &= set(faults)
        return [*self._say(faults), *steps]

    def on_read(self, found: Found, sha256: str, fault: str = "") -> None:
        """What a file holds, or (`fault`) why it is no model. Empty both: it changed meanwhile."""
        self._reading.discard(found)
        if found in self._since and (sha256 or fault):
            self._contents[found] = _Content(sha256, fault)

    def on_failed(self, now: float, pipeline: str, sha256: str, *, again: bool) -> None:
        """A rollout failed. `again`: for a reason outside of the file (no broker, no coordinator)."""
        taken = self._taken.get(pipeline)
        if taken is None or taken.sha256 != sha256 or not again:
            return
        taken.retry_at = now + min(_RETRY_MOST, _RETRY_FIRST * 2.0**taken.failures)
        taken.failures += 1

    def _pipeline(
        self, now: float, name: str, versions: Sequence[Found], served: Served, faults: list[str]
    ) -> list[Step]:
        for found in versions:
            content = self._contents.get(found)
            if content is None:
                if found in self._reading or now - self._since[found] < self._settle:
                    return []
                self._reading.add(found)
                return [Read(found)]
            if content.fault:
                # The version below it counts as long as it is so.
                faults.append(f"{found.path}: {content.fault}")
                continue
            return self._decide(now, name, found, content.sha256, served)
        return []

    def _decide(self, now: float, name: str, found: Found, sha256: str, served: Served) -> list[Step]:
        taken = self._taken.get(name)
        if taken is not None and taken.sha256 == sha256:
            if now < taken.retry_at:
                return []
            taken.retry_at = math.inf
            return [] if sha256 in served.models else [Deploy(name, found, sha256)]
        self._taken[name] = _Taken(sha256)
        # Tried since the file came: it runs, it failed, or an operator went back from it.
        done = sha256 in served.models or served.tried.get(sha256, -math.inf) >= found.changed
        return [] if done else [Deploy(name, found, sha256)]

    def _say(self, faults: Sequence[str]) -> list[Step]:
        fresh = [text for text in dict.fromkeys(faults) if text not in self._said]
        self._said.update(fresh)
        return [Say(text) for text in fresh]


def by_pipeline(files: Iterable[Found]) -> tuple[dict[str, list[Found]], list[str]]:
    """The files of each pipeline, the highest version first; and what is wrong with names."""
    plain: dict[str, Found] = {}
    folders: dict[str, list[Found]] = {}
    faults: list[str] = []
    for found in sorted(files, key=lambda one: one.path):
        parts = found.path.split("/")
        if not parts[-1].endswith(SUFFIX) or any(part.startswith(".") for part in parts) or len(parts) > 2:
            continue
        name = parts[0] if len(parts) == 2 else parts[0].removesuffix(SUFFIX)
        if not is_id(name):
            faults.append(
                f"{found.path}: {name!r} cannot be a pipeline's name: expected 1 to 64 lower-case letters, digits "
                "and hyphens, no hyphen at either end"
            )
        elif len(parts) == 2:
            folders.setdefault(name, []).append(found)
        else:
            plain[name] = found
    for name in sorted(plain.keys() & folders.keys()):
        faults.append(f"{name}: both {name}{SUFFIX} and {name}/ are there, expected one of them")
        del plain[name], folders[name]
    found_ = {name: [one] for name, one in plain.items()}
    found_ |= {name: sorted(own, key=_version, reverse=True) for name, own in folders.items()}
    return dict(sorted(found_.items())), faults


def _version(found: Found) -> list[tuple[int, int, str]]:
    stem = found.path.rpartition("/")[2].removesuffix(SUFFIX)
    parts = [part for part in re.split(r"(\d+)", stem) if part]
    return [(1, int(part[:1000]), "") if part.isdigit() and part.isascii() else (0, 0, part) for part in parts]
