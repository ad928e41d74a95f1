"""Processes under measurement: their memory, their processor time, and a worker without an agent."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from slicemq.errors import SliceMQError
from slicemq.messages import SliceAssignment, to_plain
from slicemq.options import BrokerOptions

CLUSTER = "bench"
NODE = "bench"
_PROC = Path("/proc")
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Memory:
    """Bytes of one process: resident, and resident with shared pages divided among those that share them."""

    rss: int
    pss: int


def read_memory(pid: int) -> Memory:
    """The memory of a process now; raises SliceMQError when it is gone."""
    try:
        return parse_smaps((_PROC / str(pid) / "smaps_rollup").read_text())
    except OSError as error:
        raise SliceMQError(f"process {pid}: its memory cannot be read: {error.strerror}") from error


def parse_smaps(text: str) -> Memory:
    """`Rss` and `Pss` out of the text of a smaps_rollup file."""
    fields: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            fields[name] = int(words[0]) * 1024
    if not {"Rss", "Pss"} <= fields.keys():
        raise SliceMQError("smaps_rollup: no Rss and Pss in it")
    return Memory(fields["Rss"], fields["Pss"])


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found: list[int] = []
    for task in (_PROC / str(pid) / "task").iterdir():
        try:
            found += [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def cpu_seconds(pid: int) -> float:
    """Processor seconds of a process's living threads, to the nanosecond (the scheduler's own count)."""
    total = 0
    for task in (_PROC / str(pid) / "task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


class LoneWorker:
    """A worker process as an agent would start it, told what to do and listened to by the caller."""

    def __init__(
        self,
        assignment: SliceAssignment,
        path: Path,
        broker: BrokerOptions,
        runtime: str,
        *,
        cluster: str = CLUSTER,
        link: str = "auto",
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge_node.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"MALLOC_ARENA_MAX": "2", "SLICEMQ_DATA_LINK": link},
        )
        task = {
            "node": NODE,
            "cluster": cluster,
            "assignment": to_plain(assignment),
            "path": str(path),
            "broker": broker.to_dict(),
            "runtime": runtime,
            "threads": 1,
            "log_level": "warning",
            "log_format": "text",
            "parent": os.getpid(),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.beat: dict[str, Any] = {}
        self._beats = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next `event` that it tells (`loading`, `ready`); raises SliceMQError when it fails instead."""
        while True:
            try:
                said = self._said.get(timeout=_ANSWER_SECONDS)
            except queue.Empty:
                raise SliceMQError(f"worker: no {event} within {_ANSWER_SECONDS:g} s") from None
            if said["event"] == event:
                return said
            if said["event"] in ("failed", "died", "end"):
                raise SliceMQError(f"worker: {said.get('reason', 'it ended')}")

    def next_beat(self) -> dict[str, Any]:
        """What it says of its slice from now on; raises SliceMQError when it says nothing."""
        with self._beats:
            known = self.beat
            if not self._beats.wait_for(lambda: self.beat is not known, _ANSWER_SECONDS):
                raise SliceMQError(f"worker: no heartbeat within {_ANSWER_SECONDS:g} s")
            return self.beat

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def __enter__(self) -> LoneWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                said = json.loads(line)
                if said["event"] == "beat":
                    with self._beats:
                        self.beat = said["slice"]
                        self._beats.notify_all()
                else:
                    self._said.put(said)
        self._said.put({"event": "end"})
