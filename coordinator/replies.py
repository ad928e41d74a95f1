"""What requests are answered with, once each; a request that comes again has the same answer (rule 24). PURE."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from coordinator.actions import Respond
from coordinator.intents import Wish
from coordinator.state import State
from slicemq.messages import Response

REMEMBERED = 512
"""So many of the latest answers are kept for requests that come again."""


class Replies:
    """The answers that were given, by (client, transaction)."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.given: OrderedDict[tuple[str, str], Response] = OrderedDict()

    def is_repeat(self, client: str, transaction: str) -> bool:
        """Whether a request is known: answered then with what it was answered with before, or soon."""
        known = self.given.get((client, transaction))
        if known is not None:
            self._state.actions.append(Respond(client, known))
            return True
        return any(
            wish is not None and wish.requester == (client, transaction)
            for record in self._state.records.values()
            for wish in (record.wish, record.job_wish)
        )

    def answer(self, wish: Wish | None, **fields: Any) -> None:
        """Answer the request behind a wish, if it has one; `fields` are those of `Response`."""
        if wish is not None and wish.requester is not None:
            self.reply(wish.requester, **fields)

    def reply(self, requester: tuple[str, str], *, last: bool = False, **fields: Any) -> None:
        """Answer a request; with `last` behind the documents that follow from it."""
        response = Response(requester[1], **fields)
        self.given[requester] = response
        while len(self.given) > REMEMBERED:
            self.given.popitem(last=False)
        (self._state.last if last else self._state.actions).append(Respond(requester[0], response))
