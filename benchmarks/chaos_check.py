"""What became of a client's frames, and the processes that send them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulator.processes import spawn
from slicemq.errors import SliceMQError

_MOST_NOTES = 20


@dataclass
class Tally:
    """The outcomes of one client's stream, judged as they come: frame k has input k modulo `expected`. PURE.

    `expected` are the digests of the single device's outputs. `notes` name the first problems.
    """

    expected: Sequence[str]
    answered: int = 0
    doubled: int = 0
    disordered: int = 0
    different: int = 0
    failed: int = 0
    submitted: int | None = None
    revisions: dict[str, int] = field(default_factory=dict)
    last_at: float | None = None
    gaps: list[tuple[float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)
    _next: int = 0

    def take(self, body: dict[str, Any]) -> None:
        """One line of the client's (benchmarks/chaos_client.py)."""
        if "stats" in body:
            self.stats = body["stats"]
            self.submitted = int(self.stats["submitted"])
            return
        number, at = int(body["n"]), float(body["at"])
        if number < self._next:
            self.doubled += 1
            self._note(f"frame {number} was handed out again, after {self._next - 1}")
            return
        if number > self._next:
            self.disordered += 1
            self._note(f"frame {number} came in place of {self._next}")
        self._next = number + 1
        if "error" in body:
            self.failed += 1
            self._note(f"frame {number} failed: {body['error']}")
            return
        if body["digest"] != self.expected[number % len(self.expected)]:
            self.different += 1
            self._note(f"frame {number} by {body['revision']} differs from the single device")
        self.answered += 1
        self.revisions[body["revision"]] = self.revisions.get(body["revision"], 0) + 1
        if self.last_at is not None:
            self.gaps.append((at - self.last_at, self.last_at))
        self.last_at = at

    @property
    def lost(self) -> int:
        """Frames that were submitted and never ended; known once the client has ended in order."""
        return 0 if self.submitted is None else self.submitted - self._next

    @property
    def sound(self) -> bool:
        """Whether every frame was answered once, in order, and as the single device does."""
        problems = self.doubled or self.disordered or self.different or self.failed or self.lost
        return self.submitted is not None and self.answered == self.submitted and not problems

    def _note(self, text: str) -> None:
        if len(self.notes) < _MOST_NOTES:
            self.notes.append(text)


class ClientProcess:
    """A `benchmarks.chaos_client` that runs; `tally` judges what it says."""

    def __init__(
        self,
        client: str,
        *,
        broker: str,
        cluster: str,
        name: str,
        inputs: Path,
        rate: float,
        patience: float,
        expected: Sequence[str],
        folder: Path,
    ) -> None:
        self.client = client
        self.tally = Tally(expected)
        words = ["--broker", broker, "--cluster", cluster, "--name", name, "--client", client]
        words += ["--inputs", str(inputs), "--rate", f"{rate:g}", "--patience", f"{patience:g}"]
        self.log = folder / f"{client}.log"
        with self.log.open("ab") as log:
            self.process = spawn(
                [sys.executable, "-m", "benchmarks.chaos_client", *words], stdout=subprocess.PIPE, stderr=log
            )
        self._patience = patience
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen, name=client, daemon=True)
        self._thread.start()

    @property
    def answered(self) -> int:
        """Frames answered so far."""
        return self.tally.answered

    @property
    def troubled(self) -> bool:
        """Whether something is wrong already."""
        tally = self.tally
        return bool(tally.doubled or tally.disordered or tally.different or tally.failed)

    def silent_for(self) -> float:
        """Seconds since the last answer (since it was started when there was none: infinity)."""
        last = self.tally.last_at
        return float("inf") if last is None else time.monotonic() - last

    def finish(self) -> None:
        """Ask it to end, which it does when all is answered. Raises SliceMQError when it does not end in order."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(self._patience + 20.0)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SliceMQError(f"client {self.client} does not end; {self.log}") from None
        self._thread.join()
        if code != 0 or self.tally.submitted is None:
            raise SliceMQError(f"client {self.client} ended with exit code {code}: {self.log}")

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.tally.take(json.loads(line))
