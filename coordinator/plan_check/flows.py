"""Bytes in and out of an arc, from the tensors that its steps read and make (PURE)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.plan_check.ledger import Ledger

Exact = Fraction | int


@dataclass(frozen=True)
class Flow:
    """Bytes that an arc receives and sends and that the broker delivers because of it, and seconds of codecs."""

    into: Exact
    out: Exact
    relayed: Exact
    codec: Exact = 0


@dataclass(frozen=True)
class Coded:
    """A tensor in a codec: bytes on the wire, and the seconds that encoding and decoding take."""

    bytes: int
    encode: Fraction
    decode: Fraction


class Inside:
    """Bytes of an arc that begins at state `start` and grows by one step at a time."""

    def __init__(self, ledger: Ledger, start: int) -> None:
        self._ledger = ledger
        self._before = ledger.states[start].done
        self._codec = ledger.coded.get(ledger.states[start].codec, {})
        self._read: set[int] = set()
        self._kept: set[int] = set()
        self._into = self._out = self._answer = 0
        self._decode: Exact = 0
        self._answers = 0

    def add(self, step: int, done: int) -> None:
        """Take in `step`; `done` are all steps that are done with it."""
        ledger = self._ledger
        for t in ledger.reads[step]:
            maker = ledger.maker.get(t)
            if maker is None or self._before >> maker & 1 or not done >> maker & 1:
                self._receive(t, maker is not None)
            elif t in self._kept and not ledger.users[t] & ~done:
                self._kept.discard(t)
                self._out -= ledger.sizes[t]
        for t in ledger.makes[step]:
            if ledger.users.get(t, 0) & ~done:
                self._kept.add(t)
                self._out += ledger.sizes[t]
            if t in ledger.outputs:
                self._answers += 1
                self._answer += ledger.sizes[t]

    def _receive(self, t: int, made: bool) -> None:
        if t in self._read:
            return
        self._read.add(t)
        coded = self._codec.get(t) if made else None
        self._into += self._ledger.sizes[t] if coded is None else coded.bytes
        self._decode += 0 if coded is None else coded.decode

    def flow(self, end: int) -> Flow:
        """What the arc from the start to state `end` moves, when its steps are those taken in so far."""
        frame, codec = self._ledger.frame, self._ledger.coded.get(self._ledger.states[end].codec, {})
        out = self._out
        encode: Exact = 0
        for t in self._kept & codec.keys():
            out += codec[t].bytes - self._ledger.sizes[t]
            encode += codec[t].encode
        into = self._into + frame if self._read else 0
        out = out + frame if self._kept else 0
        answer = self._answer + frame if self._answers else 0
        return Flow(into, out + answer, into + answer, self._decode + encode)
