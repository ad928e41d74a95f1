"""Where a frame's time goes in each stage: the plan's figures beside what the heartbeats of a run say."""

from __future__ import annotations

import secrets
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import TracebackType
from typing import Any

from emulator.usage import Reachable
from slicemq.errors import ProtocolError
from slicemq.messages import Heartbeat, SliceBeat, decode
from slicemq.session import Session
from slicemq.topics import Topics

# Parts of a frame's way through a worker, as a heartbeat gives them.
PARTS = ("receive", "decode", "invoke", "encode", "send")


@dataclass(frozen=True)
class Stage:
    """One slice on one node in one run; milliseconds of a frame.

    planned: the plan's time of computing, at the node's share of a core, and of the link each way. The parts of a
    frame's way: from the heartbeats. cpu: processor time of the whole node, agent included; used: the part of its
    share that it used (1: it never idled). waiting: the mean age of the oldest frame in the stage, in ms.
    """

    slice: str
    node: str
    planned: float
    planned_down: float
    planned_up: float
    receive: float
    decode: float
    invoke: float
    invoke_cpu: float
    encode: float
    send: float
    waiting: float
    cpu: float
    used: float

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, body: Mapping[str, Any]) -> Stage:
        """From what `to_plain` gave."""
        return cls(**{field.name: body[field.name] for field in fields(cls)})


class Beats:
    """The heartbeats of a cluster's nodes, as they come, with their times."""

    def __init__(self, where: Reachable) -> None:
        self._topics = Topics(where.cluster)
        self._heard: list[tuple[float, str, SliceBeat]] = []
        self._lock = threading.Lock()
        self._session = Session(where.options, f"beats-{secrets.token_hex(4)}", on_message=self._on_message)
        self._session.subscribe(self._topics.node("+", "heartbeat"))

    def __enter__(self) -> Beats:
        self._session.start()
        self._session.wait_up(10.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.stop()

    def between(self, began: float, ended: float, pipeline: str) -> dict[tuple[str, str], list[SliceBeat]]:
        """By slice and node: what was heard of a pipeline in that time (monotonic clock)."""
        found: dict[tuple[str, str], list[SliceBeat]] = {}
        with self._lock:
            for at, node, beat in self._heard:
                if began <= at <= ended and beat.pipeline == pipeline:
                    found.setdefault((beat.slice, node), []).append(beat)
        return found

    def forget(self) -> None:
        """Drop what was heard."""
        with self._lock:
            self._heard.clear()

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        now = time.monotonic()
        try:
            beat = decode(Heartbeat, payload, topic)
        except ProtocolError:
            return
        with self._lock:
            self._heard += [(now, beat.node, one) for one in beat.slices]


def stages(
    plan: Mapping[str, Any],
    heard: Mapping[tuple[str, str], Sequence[SliceBeat]],
    cpu: Mapping[str, float],
    rate: float,
    share: float,
) -> list[Stage]:
    """A plan's stages in a run of `rate` frames per second, on nodes with `share` of a core.

    cpu: each node's processor ms of a frame. Without heartbeats a part is NaN.
    """
    found = []
    for item in plan["slices"]:
        for node in item["nodes"]:
            beats = heard.get((item["id"], node), ())
            # A heartbeat has means over the last frames: the later half of them is of this run alone.
            late = beats[len(beats) // 2 :]
            found.append(
                Stage(
                    slice=item["id"],
                    node=node,
                    planned=item["compute_ms"],
                    planned_down=item.get("down_ms", 0.0),
                    planned_up=item.get("up_ms", 0.0),
                    waiting=1e3 * _mean([beat.waiting for beat in beats]),
                    invoke_cpu=_mean([beat.invoke_cpu_ms for beat in late]),
                    cpu=cpu[node],
                    used=cpu[node] * rate / (1e3 * share),
                    **{part: _mean([getattr(beat, f"{part}_ms") for beat in late]) for part in PARTS},
                )
            )
    return found


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def table(rows: Sequence[Stage], share: float) -> str:
    """The stages of one run; planned times also as processor time."""
    lines = [
        "| slice | node | planned CPU | node CPU | invoke CPU | receive | decode | encode | send | invoke wall "
        "| planned wall | link down | link up | oldest waits | share used |",
        "| --- " * 15 + "|",
    ]
    for row in rows:
        figures = (
            row.planned * share,
            row.cpu,
            row.invoke_cpu,
            row.receive,
            row.decode,
            row.encode,
            row.send,
            row.invoke,
            row.planned,
            row.planned_down,
            row.planned_up,
            row.waiting,
        )
        cells = " | ".join(f"{figure:.1f}" for figure in figures)
        lines.append(f"| {row.slice} | {row.node} | {cells} | {row.used:.2f} |")
    return "\n".join(lines)
