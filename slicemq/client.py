"""Ask a pipeline for inferences: `Pipeline` (docs/reference/client.md).

with Pipeline("faces", "mqtt://broker.local") as faces:
    result = faces.infer(image)
    for result in faces.map(images):
        print(result.outputs["scores"])
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from slicemq.buffers import BufferPool
from slicemq.courier import Courier
from slicemq.desk import Desk
from slicemq.errors import BrokerError, FrameFailedError, PipelineError, UsageError, frame_failed
from slicemq.ledger import Ledger
from slicemq.messages import TensorSpec
from slicemq.options import BrokerOptions
from slicemq.outcomes import Failover, Outcome
from slicemq.specs import Inputs, check_inputs, tensor_keys
from slicemq.topics import Topics, check_id

logger = logging.getLogger(__name__)

# From here on the copy of an input lies in memory that is used again.
_POOLED_BYTES = 65_536


@dataclass(frozen=True)
class Result:
    """How one frame ended.

    `outputs` holds the model's outputs in its order, by name (`<name>@<index>` where names are not unique),
    `tensors` the same arrays by whole-model index; they are read-only and share the received message's memory.
    `latency` is seconds from submit to the result, `attempts` how often the frame was sent, `revision` the
    one revision that made all of it. A frame that failed has `error`, and no outputs.
    """

    sequence: int
    outputs: dict[str, npt.NDArray[Any]]
    revision: str
    latency: float
    attempts: int
    tensors: dict[int, npt.NDArray[Any]] = field(repr=False)
    error: FrameFailedError | None = None


@dataclass(frozen=True)
class Stats:
    """Counters since `open`.

    `resent` counts attempts after the first, `missed` deadlines missed, `doubles` second answers dropped,
    `dropped` refused messages by cause. `window` is what this client uses of its `share`; `held` how many
    places are taken. A failover's `at` is Unix time, its `seconds` run from the route's loss to the first
    result of the new revision.
    """

    submitted: int
    answered: int
    failed: int
    sent: int
    resent: int
    missed: int
    doubles: int
    dropped: dict[str, int]
    failovers: tuple[Failover, ...]
    window: int
    share: int
    held: int


class Pipeline:
    """A client of the pipeline `name`: submit frames, get each one's outcome exactly once, in order.

    `resend_after`: seconds after which an unanswered frame is sent again (default: 4 x the observed latency, 2 to
    60 s). `give_up_after`: seconds from submit after which a frame ends as `gave-up` (default: never). With
    `on_result` the outcomes, failed ones too, are handed to that function, one at a time and in order, on a
    thread of the client's. `client_id` (default: random) is the MQTT client id and must be the only one of its
    name on the broker. All methods may be called from any thread.
    """

    def __init__(
        self,
        name: str,
        broker: BrokerOptions | str = "mqtt://localhost:1883",
        *,
        cluster: str = "default",
        client_id: str | None = None,
        resend_after: float | None = None,
        give_up_after: float | None = None,
        on_result: Callable[[Result], None] | None = None,
        connect_timeout: float = 10.0,
    ) -> None:
        for word, value in (("resend_after", resend_after), ("give_up_after", give_up_after)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{word}: expected a positive number of seconds or None, got {value!r}")
        self.name = check_id("pipeline", name)
        self.client_id = check_id("client", client_id if client_id is not None else f"c-{secrets.token_hex(4)}")
        self._topics = Topics(cluster)
        self._broker = BrokerOptions.from_url(broker) if isinstance(broker, str) else broker
        self._connect_timeout = connect_timeout
        self._on_result = on_result
        stream = secrets.randbits(64)
        ledger = Ledger(self.client_id, stream, resend_after=resend_after, give_up_after=give_up_after)
        self._desk = Desk(name, self._topics.pipeline(name), ledger)
        self._pool = BufferPool()
        self._courier = Courier(
            self._broker, self._topics, name, self.client_id, stream, self._desk, self._pool.trim
        )
        self._desk.bind(self._courier.post, self._courier.wake)
        self._opened = False
        self._dispatcher: threading.Thread | None = None
        self._unix = time.time() - time.monotonic()

    # ---- life

    def open(self) -> Pipeline:
        """Connect and read the pipeline's document; `with` does it by itself.

        Raises BrokerError (or BrokerRefusedError) without a broker, PipelineError when there is no such pipeline
        or it was removed, VersionError when its document is of another protocol version. A paused one is fine.
        """
        if self._opened:
            return self
        self._opened = True
        try:
            self._courier.open(self._connect_timeout)
            if not self._desk.wait_synced(self._connect_timeout):
                raise BrokerError(
                    f"broker {self._broker.describe()}: connected, but it sent nothing back within "
                    f"{self._connect_timeout:g} s"
                )
            try:
                self._desk.document()
            except PipelineError as error:
                if self._desk.seen() is None:
                    raise PipelineError(self._absent()) from None
                raise error
        except BaseException:
            self.close()
            raise
        if self._on_result is not None:
            self._dispatcher = threading.Thread(
                target=self._dispatch, args=(self._on_result,), name="slicemq-results", daemon=True
            )
            self._dispatcher.start()
        return self

    def close(self) -> None:
        """Close both connections; unanswered frames end as `closed`. Outcomes that came can still be taken."""
        last = self._desk.close()
        if last is None:
            return
        try:
            self._courier.close(last)
        finally:
            dispatcher = self._dispatcher
            if dispatcher is not None and dispatcher is not threading.current_thread():
                dispatcher.join()

    def __enter__(self) -> Pipeline:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- what is known

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes now, in its order."""
        return self._desk.document().inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives now, in its order."""
        return self._desk.document().outputs

    @property
    def stateful(self) -> bool:
        """Whether the model keeps state between the frames of this client: one at a time, in order (rule 6)."""
        return self._desk.document().stateful

    @property
    def stats(self) -> Stats:
        """The counters as they are now."""
        return self._desk.read(self._stats)

    # ---- frames

    def submit(self, inputs: Inputs, *, timeout: float | None = None) -> int:
        """Send a frame; its sequence number. The arrays are copied, so they may be used again at once.

        Blocks while the window is full: a place is held until the outcome was taken, so a thread that submits
        more frames than the window without taking outcomes waits for another one to take them. Raises
        InputError for wrong tensors, TimeoutError when no place came free in `timeout` seconds,
        PipelineError when the pipeline was removed or the client is closed.
        """
        return self._submit(inputs, timeout, claim=False)

    def result(self, timeout: float | None = None) -> Result:
        """The next outcome in the order of submission.

        Raises FrameFailedError (with `sequence`) for a frame that failed, TimeoutError after `timeout` seconds.
        """
        self._refuse_callback("result")
        return _raised(_result(self._desk.take(None, timeout)))

    def results(self, *, raise_errors: bool = True) -> Iterator[Result]:
        """The outcomes of all that was submitted, in order, until none is left.

        A failed frame raises FrameFailedError; call again to go on behind it, or take it as a Result with
        `error` by `raise_errors=False`.
        """
        self._refuse_callback("results")
        while self._desk.outstanding():
            result = _result(self._desk.take(None, None))
            yield _raised(result) if raise_errors else result

    def map(
        self, iterable: Iterable[Inputs], *, raise_errors: bool = True, limit: int | None = None
    ) -> Iterator[Result]:
        """Infer each of `iterable`, in order, keeping the window full; its results are seen by nobody else.

        `limit` keeps fewer frames on their way than the window has places (1: one after the other).
        A failed frame raises FrameFailedError and ends the iteration, or is yielded as a Result with `error`
        when `raise_errors` is false. A source that blocks (a camera) delays the results behind it: use
        `on_result` there.
        """
        source = iter(iterable)
        mine: deque[int] = deque()
        # What was taken from the source and is not submitted yet, at most one.
        coming: deque[Inputs] = deque()
        more = True
        try:
            while more or coming or mine:
                few = limit is None or len(mine) < limit
                if (more or coming) and (not mine or (few and self._desk.may_submit(mine[0]))):
                    if not coming:
                        try:
                            coming.append(next(source))
                        except StopIteration:
                            more = False
                            continue
                    try:
                        # The window may have become smaller meanwhile. While frames of this call hold its places,
                        # nobody but this call can free one: to wait for it here would be for ever.
                        mine.append(self._submit(coming[0], 0.0 if mine else None, claim=True))
                    except TimeoutError:
                        pass
                    else:
                        coming.popleft()
                        continue
                if mine:
                    result = _result(self._desk.take(mine[0], None))
                    mine.popleft()
                    yield _raised(result) if raise_errors else result
        finally:
            for sequence in mine:
                self._desk.abandon(sequence)

    def infer(self, inputs: Inputs, timeout: float | None = None) -> Result:
        """Submit one frame and wait for its own outcome; several threads may do so at once.

        Raises what `submit` and `result` raise; after TimeoutError the frame's outcome is thrown away.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        sequence = self._submit(inputs, timeout, claim=True)
        try:
            left = None if deadline is None else deadline - time.monotonic()
            return _raised(_result(self._desk.take(sequence, left)))
        except BaseException:
            self._desk.abandon(sequence)
            raise

    def wait(self, timeout: float | None = None) -> None:
        """Wait until every frame submitted so far was answered and taken; with `on_result`, before leaving `with`.

        Raises TimeoutError after `timeout` seconds.
        """
        self._desk.wait_empty(timeout)

    # ---- inside

    def _submit(self, inputs: Inputs, timeout: float | None, *, claim: bool) -> int:
        document = self._desk.document()
        # A copy: the frame may have to be sent again after the caller has changed its arrays.
        kept = {index: self._copy(array) for index, array in check_inputs(document.inputs, inputs).items()}
        sequence, dispatches = self._desk.submit(kept, document.spec, timeout, claim=claim)
        for dispatch in dispatches:
            self._courier.send(dispatch)
        return sequence

    def _copy(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A copy in memory that comes back when the frame has ended: to get new memory costs more than to copy."""
        if array.nbytes < _POOLED_BYTES:
            return array.copy(order="C")
        kept = np.frombuffer(self._pool.take(array.nbytes), array.dtype).reshape(array.shape)
        np.copyto(kept, array)
        return kept

    def _dispatch(self, on_result: Callable[[Result], None]) -> None:
        while True:
            try:
                outcome = self._desk.borrow(None, None)
            except FrameFailedError:
                return  # closed, and nothing is left
            try:
                on_result(_result(outcome))
            except Exception:
                logger.exception("on_result failed for frame %d", outcome.sequence)
            finally:
                self._desk.give_back()

    def _refuse_callback(self, method: str) -> None:
        if self._on_result is not None:
            raise UsageError(f"{method}(): outcomes go to on_result; use wait(), infer() or map() beside it")

    def _stats(self, ledger: Ledger) -> Stats:
        counters = ledger.counters
        return Stats(
            submitted=counters.submitted,
            answered=counters.answered,
            failed=counters.failed,
            sent=counters.sent,
            resent=counters.resent,
            missed=counters.missed,
            doubles=counters.doubles,
            dropped=dict(counters.dropped),
            failovers=tuple(replace(f, at=f.at + self._unix) for f in counters.failovers),
            window=ledger.window.size,
            share=ledger.window.share,
            held=ledger.held,
        )

    def _absent(self) -> str:
        others = self._courier.pipelines()
        there = f"there are: {', '.join(others)}" if others else "there are none"
        return f"no pipeline {self.name!r} in cluster {self._topics.cluster!r}; {there}"


def _result(outcome: Outcome) -> Result:
    return Result(
        sequence=outcome.sequence,
        outputs={key: outcome.tensors[index] for index, key in tensor_keys(outcome.specs).items()},
        revision=outcome.revision,
        latency=outcome.latency,
        attempts=outcome.attempts,
        tensors=outcome.tensors,
        error=frame_failed(outcome.reason, outcome.message, outcome.sequence) if outcome.reason else None,
    )


def _raised(result: Result) -> Result:
    if result.error is not None:
        raise result.error
    return result
