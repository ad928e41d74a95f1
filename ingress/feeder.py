"""Takes messages out of the line, reads them, and asks the pipeline; waits for a pipeline that is not there."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ingress.line import Failure, Work
from ingress.payloads import InputRules, read_payload
from slicemq.client import Pipeline, Result
from slicemq.errors import (
    BrokerError,
    InputError,
    MissingDependencyError,
    PipelineError,
    SliceMQError,
    UsageError,
)

logger = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class Flight:
    """A message that was given to the pipeline, and what its payload was."""

    work: Work
    shown: dict[str, str | int]


class Feeder:
    """One thread between a line and a pipeline; frames are submitted in the order in which they are taken.

    `make` makes the client, which calls `on_result` given to it. `take(seconds)` waits for a message. For each one
    of these is called: `landed` with the frame's outcome, `failed` when it never became a frame, `put_back` when
    the pipeline was not there for it. `holding` gets the reason why nothing moves, or an empty text.
    """

    def __init__(
        self,
        make: Callable[[Callable[[Result], None]], Pipeline],
        rules: InputRules,
        *,
        take: Callable[[float], Work | None],
        landed: Callable[[Flight, Result], None],
        failed: Callable[[Work, Failure], None],
        put_back: Callable[[Work], None],
        holding: Callable[[str], None],
    ) -> None:
        self._make = make
        self._rules = rules
        self._take = take
        self._landed = landed
        self._failed = failed
        self._put_back = put_back
        self._holding = holding
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._pipeline: Pipeline | None = None
        self._flights: deque[Flight] = deque()
        self._thread = threading.Thread(target=self._run, name="ingress-feeder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def look(self) -> None:
        """The pipeline's document has changed: it may be there."""
        self._news.set()

    def stop(self) -> None:
        """Take no further messages; outcomes of those that the pipeline has still come."""
        self._stopping.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join(15.0)

    def close(self) -> None:
        """Close the client; unanswered messages are put back."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pipeline = self._open()
                if pipeline is None:
                    continue
                self._holding("")
                self._feed(pipeline)
                if not self._stopping.is_set():
                    self.close()
            except Exception:
                logger.exception("the feeder begins anew after an error of its own")
                self.close()
                self._stopping.wait(_RETRY_SECONDS)

    def _open(self) -> Pipeline | None:
        self._news.clear()
        pipeline = self._make(self._on_result)
        try:
            pipeline.open()
        except (PipelineError, BrokerError) as error:
            self._holding(str(error))
            self._news.wait(_RETRY_SECONDS)
            return None
        except SliceMQError as error:
            logger.error("%s", error)
            self._holding(str(error))
            self._stopping.wait(_RETRY_SECONDS)
            return None
        self._pipeline = pipeline
        return pipeline

    def _feed(self, pipeline: Pipeline) -> None:
        """Feed until told to stop, or until the pipeline is gone."""
        while not self._stopping.is_set():
            work = self._take(_LOOK_SECONDS)
            if work is not None:
                if not self._submit(pipeline, work):
                    return
            else:
                try:
                    _ = pipeline.inputs
                except PipelineError as error:
                    self._holding(str(error))
                    return

    def _submit(self, pipeline: Pipeline, work: Work) -> bool:
        """Whether the pipeline is still there."""
        try:
            specs = pipeline.inputs
        except PipelineError as error:
            self._holding(str(error))
            self._put_back(work)
            return False
        try:
            arrays, shown = read_payload(work.payload, specs, self._rules)
        except (InputError, UsageError, MissingDependencyError) as error:
            self._failed(work, Failure("bad-message", str(error)))
            return True
        except MemoryError:
            self._failed(work, Failure("too-large", "the ingress has no memory for it"))
            return True
        except Exception:
            # Whatever a stranger's bytes did to a decoder, the stream goes on.
            logger.exception("topic %s: a message of %d bytes cannot be read", work.topic[:200], len(work.payload))
            self._failed(work, Failure("bad-message", "it cannot be read"))
            return True
        # Outcomes come in the order of submission, maybe before `submit` returns.
        self._flights.append(Flight(work, shown))
        while True:
            try:
                pipeline.submit(arrays, timeout=_LOOK_SECONDS)
                return True
            except TimeoutError:
                if not self._stopping.is_set():
                    continue
                gone = False
            except InputError:
                # The model was exchanged after the payload was read.
                gone = False
            except PipelineError as error:
                self._holding(str(error))
                gone = True
            self._flights.pop()
            self._put_back(work)
            return not gone

    def _on_result(self, result: Result) -> None:
        self._landed(self._flights.popleft(), result)


def drained(busy: Callable[[], bool], seconds: float) -> None:
    """Wait until nothing is under way, at most so long."""
    deadline = time.monotonic() + seconds
    waiting = threading.Event()
    with contextlib.suppress(KeyboardInterrupt):
        while busy() and time.monotonic() < deadline:
            waiting.wait(0.02)
