"""Which of a client's frames build on one another: the run of a stateful pipeline (protocol rule 6). PURE.

A run is the frames of a stream from one initial state on. Its name is (client, stream, number of its first frame),
and each of its frames says it: a slice goes on only in the run that its state belongs to. So a result is
right whatever was lost, repeated or restarted on its way; all that a lease decides is whose turn it is.

| event                                                   | the run                                              |
| ------------------------------------------------------- | ---------------------------------------------------- |
| a frame is to be sent, there is no run                  | begins with it, on the active revision               |
| its first frame is to be sent again                     | begins anew, on the active revision: nothing was     |
|                                                         | answered before, so nothing is lost                  |
| another frame is to be sent, its revision is active     | goes on                                              |
| another frame is to be sent, its revision is not active | is over: that frame ends as `stream-reset`           |
| its revision is `lost`, its first frame was answered    | is over: the frame that waits, or comes next, ends   |
|                                                         | as `stream-reset` at once                            |
| a frame failed: `stream-reset` (by a slice that holds   | is over; the next frame begins another               |
| no such state), `gave-up`, `slice-error` ...            |                                                      |

So one lost state makes exactly one frame end with an error, and the frame after it meets the initial state.
"""

from __future__ import annotations


class Run:
    """The run of one stream. `first` is the number of its first frame, None when the next frame begins one.

    `revision` is where its frames go; it stays when the run is over.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.revision = ""

    def place(self, sequence: int, revision: str) -> int | None:
        """The run's first number for an attempt of `sequence` at `revision`; None when the state is not there."""
        if self.first is None or sequence == self.first:
            self.first, self.revision = sequence, revision
        return self.first if revision == self.revision else None

    def end(self) -> None:
        """A frame failed: what the slices hold now is not known."""
        self.first = None
