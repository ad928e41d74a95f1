"""One client of a load, on a thread of its own: sends, and notes what became of each frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from emulator.figures import Answer
from emulator.trial import same_bits
from slicemq.client import Pipeline, Result
from slicemq.errors import PipelineError

if TYPE_CHECKING:
    from emulator.load import Frame, Load

WARM_SECONDS = 300.0
"""How long clients and their load wait for one another to be warm."""


class LoadClient:
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
                    self._arrived.wait_for(lambda: len(self.answers) >= warm, WARM_SECONDS)
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
