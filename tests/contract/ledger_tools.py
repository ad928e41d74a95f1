"""What the ledger's tests share: documents, headers and results made short."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slicemq.frames import FrameHeader
from slicemq.ledger import Ledger
from slicemq.messages import (
    Bundle,
    Lane,
    PipelineDocument,
    PipelineStateWord,
    Route,
    RouteStateWord,
    Stamp,
    TensorSpec,
)
from slicemq.outcomes import Action, Deliver, Outcome, Send
from slicemq.specs import spec_digest

STREAM = 77
INPUTS = (TensorSpec(0, "image", "float32", (1, 4)),)
OUTPUTS = (TensorSpec(8, "boxes", "float32", (1, 4)), TensorSpec(9, "scores", "int8", (-1,)))
SPEC = spec_digest(INPUTS, OUTPUTS)
R1, R2, R3 = "1-aaaaaaaa", "2-bbbbbbbb", "3-cccccccc"


def route(revision: str, state: RouteStateWord = "active", weight: float = 1.0, parts: int = 1) -> Route:
    return Route(revision, state, weight, (Bundle("b0", INPUTS),), parts)


def turning(revision: str, *parts: int, state: RouteStateWord = "active") -> Route:
    """A route with a lane for each turn; `parts` are the parts of each one's results."""
    lanes = tuple(Lane((turn,), (Bundle(f"b{turn}", INPUTS),), count) for turn, count in enumerate(parts))
    return Route(revision, state, 1.0, (), 0, len(parts), lanes)


def document(
    counter: int,
    *routes: Route,
    state: PipelineStateWord = "running",
    window: int = 8,
    clients: int = 1,
    resend: int = 0,
    outputs: tuple[TensorSpec, ...] = OUTPUTS,
    term: int = 1,
    stateful: bool = False,
) -> PipelineDocument:
    return PipelineDocument(
        name="faces",
        stamp=Stamp(term, "a", counter),
        state=state,
        reason="",
        model="0" * 64,
        spec=spec_digest(INPUTS, outputs),
        inputs=INPUTS,
        outputs=outputs,
        routes=routes,
        window=window,
        clients=clients,
        resend=resend,
        stateful=stateful,
    )


def header(
    sequence: int, revision: str, part: int = 0, parts: int = 1, error: str = "", **more: Any
) -> FrameHeader:
    fields = {"client": "c-1", "stream": STREAM, "sent": 0.0, "message": "", **more}
    return FrameHeader(sequence=sequence, revision=revision, part=part, parts=parts, error=error, **fields)


def tensors(value: float = 0.0, *indices: int) -> dict[int, npt.NDArray[Any]]:
    full: dict[int, npt.NDArray[Any]] = {
        8: np.full((1, 4), value, np.float32),
        9: np.full((3,), int(value) % 100, np.int8),
    }
    return {index: full[index] for index in indices or (8, 9)}


def running(*routes: Route, **settings: Any) -> Ledger:
    """A connected ledger that knows a document with these routes (default: R1 active)."""
    ledger = Ledger("c-1", STREAM, **settings)
    ledger.document(0.0, document(1, *(routes or (route(R1),))))
    ledger.connected(0.0)
    return ledger


def submit(ledger: Ledger, now: float = 0.0, spec: str = SPEC) -> list[Action]:
    return ledger.submit(now, {0: "x"}, spec)[1]


def sends(actions: list[Action]) -> list[tuple[int, str]]:
    return [(action.sequence, action.route.revision) for action in actions if isinstance(action, Send)]


def outcomes(actions: list[Action]) -> list[Outcome]:
    return [action.outcome for action in actions if isinstance(action, Deliver)]


def ends(actions: list[Action]) -> list[tuple[int, str]]:
    """(sequence, reason or revision) of each outcome delivered."""
    return [(outcome.sequence, outcome.reason or outcome.revision) for outcome in outcomes(actions)]
