"""Clients that ask a pipeline for inferences and note what became of each frame: `Load`, and `drive` for one run.

A client keeps its window (or `limit` frames) full, or sends at a fixed rate whatever comes back. At a fixed rate a
frame's latency counts from the moment at which it was to be sent, so waiting for a place in the window is in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emulator.figures import Answer
from emulator.load_client import WARM_SECONDS, LoadClient
from emulator.usage import Reachable
from slicemq.errors import SliceMQError
from slicemq.messages import TensorSpec

Frame = Mapping[int, npt.NDArray[Any]]
"""Arrays by whole-model index."""
Outputs = Sequence[npt.NDArray[Any]]
Reference = Callable[[Frame], Outputs]
"""The whole model on one device: a frame in, its outputs in the model's order out."""
LEAST_FRAMES = 8
_PATIENCE = 6.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Asked:
    """What the clients do: `clients`, `rate`, `limit` as in emulator.scenario.Load.

    With `seconds` they stop that long after all of them are warm, with `frames` after so many each, the warm ones
    among them. warm: frames of each client before the measurement (None: twice the window and one). least: results
    that a measurement by `seconds` has at least. give_up: seconds after which a frame counts as failed.
    """

    seconds: float | None = None
    frames: int | None = None
    clients: int = 1
    rate: float | None = None
    limit: int | None = None
    warm: int | None = None
    least: int = LEAST_FRAMES
    give_up: float = 180.0


class Load:
    """The clients of one pipeline. Use it as a context manager: leaving it ends them, however far they are.

    `on_warm` is called when all clients are warm, while they wait to go on.
    """

    def __init__(
        self,
        where: Reachable,
        name: str,
        asked: Asked,
        frames: Sequence[Frame] = (),
        reference: Reference | None = None,
        on_warm: Callable[[], None] = lambda: None,
    ) -> None:
        if (asked.seconds is None) == (asked.frames is None):
            raise SliceMQError("load: expected either seconds or frames")
        self.where, self.name, self.asked = where, name, asked
        self.began = 0.0
        self._frames, self._reference = list(frames), reference
        self._on_warm = on_warm
        self._expected: list[Outputs] | None = None
        self._prepared = threading.Lock()
        self._clients = [LoadClient(self, number) for number in range(asked.clients)]
        self._warm = threading.Barrier(asked.clients + 1, self._begin)
        self._over = threading.Event()

    @property
    def window(self) -> int:
        """Frames that all clients together may have on their way."""
        return sum(client.window for client in self._clients)

    def start(self) -> float:
        """Start the clients and wait until each is warm; the moment (monotonic) at which the measurement begins.

        Raises what ended a client before, and SliceMQError when they are not warm within 300 s.
        """
        for client in self._clients:
            client.thread.start()
        try:
            self._warm.wait(WARM_SECONDS)
        except threading.BrokenBarrierError:
            self.close()
            self._raise_error()
            raise SliceMQError(f"{self.name}: not warm after {WARM_SECONDS:g} s") from None
        return self.began

    def finish(self, timeout: float) -> list[Answer]:
        """Wait until the load has ended and every frame has its end; the answers by client, in the client's order.

        Raises what ended a client, and SliceMQError after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        for client in self._clients:
            client.thread.join(max(0.0, deadline - time.monotonic()))
        stuck = sum(client.thread.is_alive() for client in self._clients)
        if stuck:
            self.close()
            raise SliceMQError(f"{self.name}: {stuck} clients still wait for answers after {timeout:.0f} s")
        self._raise_error()
        return self.answers()

    def answers(self) -> list[Answer]:
        """What has come so far."""
        return [answer for client in self._clients for answer in list(client.answers)]

    def wait_over(self) -> float:
        """Wait until the clients shall send nothing more, or have sent all; the moment at which that is so."""
        while not self.over() and any(client.thread.is_alive() for client in self._clients):
            time.sleep(_LOOK_SECONDS)
        return time.monotonic()

    def close(self) -> None:
        """End every client at once."""
        self._over.set()
        self._warm.abort()
        for client in self._clients:
            client.close()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- for the clients

    def prepare(self, inputs: Sequence[TensorSpec]) -> tuple[list[Frame], list[Outputs] | None]:
        """The frames, which are sent in turn, and what one device answers; made once for all clients."""
        with self._prepared:
            if not self._frames:
                self._frames = [random_frame(inputs, seed) for seed in (1, 2, 3, 4)]
            if self._reference is not None and self._expected is None:
                self._expected = [self._reference(frame) for frame in self._frames]
            return self._frames, self._expected

    def warmed(self) -> None:
        """A client is warm; waits for the others."""
        self._warm.wait(WARM_SECONDS)

    def over(self) -> bool:
        """Whether the clients shall send nothing more."""
        if self._over.is_set():
            return True
        seconds, now = self.asked.seconds, time.monotonic()
        if seconds is None or not self.began or now < self.began + seconds:
            return False
        if now < self.began + _PATIENCE * seconds + 60.0:
            inside = sum(len(client.answers) - client.before for client in self._clients)
            if inside < self.asked.least:
                return False
        self._over.set()
        return True

    def abort(self) -> None:
        """A client failed: nobody waits for it."""
        self._warm.abort()
        self._over.set()

    def _begin(self) -> None:
        self._on_warm()
        for client in self._clients:
            client.before = len(client.answers)
        self.began = time.monotonic()

    def _raise_error(self) -> None:
        for client in self._clients:
            if client.error is not None:
                raise client.error


def random_frame(inputs: Sequence[TensorSpec], seed: int = 1) -> dict[int, npt.NDArray[Any]]:
    """Uniform numbers: from -1 to 1 for floats, the whole range for types of one byte; zeros for all others."""
    rng = np.random.default_rng(seed)
    made: dict[int, npt.NDArray[Any]] = {}
    for spec in inputs:
        shape, dtype = [max(1, size) for size in spec.shape], np.dtype(spec.dtype)
        if dtype.kind == "f":
            made[spec.index] = rng.uniform(-1, 1, shape).astype(dtype)
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
            made[spec.index] = rng.integers(least, most, shape, dtype, endpoint=True)
        else:
            made[spec.index] = np.zeros(shape, dtype)
    return made
