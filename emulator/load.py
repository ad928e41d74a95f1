"""Clients that ask a pipeline for inferences and note what became of each frame: `Load`, and `drive` for one run.

A client keeps its window (or `limit` frames) full, or sends at a fixed rate whatever comes back. At a fixed rate a
frame's latency counts from the moment at which it was to be sent, so waiting for a place in the window is in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emulator.figures import Answer
from emulator.trial import same_bits
from emulator.usage import Reachable
from slicemq.client import Pipeline, Result
from slicemq.errors import PipelineError, SliceMQError
from slicemq.messages import TensorSpec

Frame = Mapping[int, npt.NDArray[Any]]
"""Arrays by whole-model index."""
Outputs = Sequence[npt.NDArray[Any]]
Reference = Callable[[Frame], Outputs]
"""The whole model on one device: a frame in, its outputs in the model's order out."""
LEAST_FRAMES = 8
_WARM_SECONDS = 300.0
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
    """The clients of one pipeline. Use it as a context manager: leaving it ends them, however far they are."""

    def __init__(
        self,
        where: Reachable,
        name: str,
        asked: Asked,
        frames: Sequence[Frame] = (),
        reference: Reference | None = None,
    ) -> None:
        if (asked.seconds is None) == (asked.frames is None):
            raise SliceMQError("load: expected either seconds or frames")
        self.where, self.name, self.asked = where, name, asked
        self.began = 0.0
        self._frames, self._reference = list(frames), reference
        self._expected: list[Outputs] | None = None
        self._prepared = threading.Lock()
        self._clients = [_Client(self, number) for number in range(asked.clients)]
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
            self._warm.wait(_WARM_SECONDS)
        except threading.BrokenBarrierError:
            self.close()
            self._raise_error()
            raise SliceMQError(f"{self.name}: not warm after {_WARM_SECONDS:g} s") from None
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
        self._warm.wait(_WARM_SECONDS)

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
        for client in self._clients:
            client.before = len(client.answers)
        self.began = time.monotonic()

    def _raise_error(self) -> None:
        for client in self._clients:
            if client.error is not None:
                raise client.error


class _Client:
    """One client, on a thread of its own."""

    def __init__(self, load: Load, number: int) -> None:
        self.answers: list[Answer] = []
        self.before = self.window = 0
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name=f"load-{number}", daemon=True)
        self._load, self._number = load, number
        self._pipeline: Pipeline | None = None
        self._sent_at: dict[int, float] = {}
        self._arrived = threading.Condition()

    def close(self) -> None:
        """End it at once."""
        if self._pipeline is not None:
            self._pipeline.close()
        if self.thread.ident is not None:
            self.thread.join()

    def _run(self) -> None:
        load, asked = self._load, self._load.asked
        steady = asked.rate is not None
        try:
            self._pipeline = Pipeline(
                load.name,
                load.where.options,
                cluster=load.where.cluster,
                give_up_after=asked.give_up,
                on_result=self._take if steady else None,
            )
            with self._pipeline as pipeline:
                self._frames, self._expected = load.prepare(pipeline.inputs)
                share = pipeline.stats.share
                self.window = min(share, asked.limit or share)
                (self._send_steadily if steady else self._keep_full)(pipeline)
        except threading.BrokenBarrierError:
            return
        except PipelineError as error:
            if not load.began:
                self.error = error
            else:
                self._note_removed(str(error))
            load.abort()
        except Exception as error:  # noqa: BLE001 - it ends this thread, and is raised where the load is awaited
            self.error = error
            load.abort()

    def _warm_frames(self) -> int:
        warm = 2 * self.window + 1 if self._load.asked.warm is None else self._load.asked.warm
        frames = self._load.asked.frames
        return warm if frames is None else min(warm, frames)

    def _more(self, number: int) -> bool:
        frames = self._load.asked.frames
        return not self._load.over() and (frames is None or number < frames)

    def _keep_full(self, pipeline: Pipeline) -> None:
        warm = self._warm_frames()

        def source() -> Iterator[Frame]:
            number = 0
            while self._more(number):
                self._sent_at[number] = time.monotonic()
                yield self._frames[number % len(self._frames)]
                number += 1

        if warm == 0:
            self._load.warmed()
        for result in pipeline.map(source(), raise_errors=False, limit=self._load.asked.limit):
            # It may have waited for this thread; a rate is of the moments at which results came.
            sent = self._sent_at.get(len(self.answers), float("nan"))
            self._note(result, result.latency, min(time.monotonic(), sent + result.latency))
            if len(self.answers) == warm:
                self._load.warmed()

    def _send_steadily(self, pipeline: Pipeline) -> None:
        rate = self._load.asked.rate
        assert rate is not None
        warm, number, begun = self._warm_frames(), 0, time.monotonic()
        while self._more(number) or number < warm:
            if number == warm:
                with self._arrived:
                    self._arrived.wait_for(lambda: len(self.answers) >= warm, _WARM_SECONDS)
                self._load.warmed()
                begun = time.monotonic() - number / rate
            at = begun + number / rate
            pause = at - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            self._sent_at[number] = at
            pipeline.submit(self._frames[number % len(self._frames)])
            number += 1
        if number == warm:
            self._load.warmed()
        pipeline.wait(self._load.asked.give_up + 30.0)

    def _take(self, result: Result) -> None:
        now = time.monotonic()
        self._note(result, now - self._sent_at.get(result.sequence, float("nan")), now)
        with self._arrived:
            self._arrived.notify_all()

    def _note(self, result: Result, latency: float, arrived: float) -> None:
        number = len(self.answers)
        equal = None
        if self._expected is not None and result.error is None:
            equal = same_bits(list(result.tensors.values()), self._expected[number % len(self._frames)])
        self.answers.append(
            Answer(
                client=self._number,
                sequence=result.sequence,
                submitted=self._sent_at.pop(number, float("nan")),
                arrived=arrived,
                latency=latency,
                revision=result.revision,
                attempts=result.attempts,
                error=result.error.reason if result.error is not None else "",
                equal=equal,
            )
        )

    def _note_removed(self, why: str) -> None:
        """The pipeline went away under the load: what is unanswered has failed."""
        now = time.monotonic()
        for number, sent in sorted(self._sent_at.items()):
            self.answers.append(Answer(self._number, number, sent, now, now - sent, "", 1, error=why))
        self._sent_at.clear()


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
