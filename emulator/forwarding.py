"""Connections through delay lines: the part of the relay that moves bytes (emulator/relay.py is the program)."""

from __future__ import annotations

import math
import random
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from emulator.delayline import Delay, DelayLine

Direction = Literal["up", "down"]
READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
_CHUNK = 1 << 18
_MOST_CONNECTIONS = 400
_RESET = struct.pack("ii", 1, 0)
# What the other side has not confirmed after so long never arrives: the connection is dead.
_GONE_MS = 30_000


@dataclass(eq=False)
class Pipe:
    """One direction of a connection: from `source` through `line` to `sink`."""

    direction: Direction
    source: socket.socket
    sink: socket.socket
    line: DelayLine
    blocked: bool = False
    finished: bool = False


@dataclass(eq=False)
class Pair:
    """A connection and its continuation. `linked`: the continuation stands."""

    up: Pipe
    down: Pipe
    linked: bool = False
    masks: dict[socket.socket, int] = field(default_factory=dict)

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        """Both directions."""
        return self.up, self.down


class Relay:
    """Everything that the process does; `step` waits for and handles what comes next."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], rate: float, seed: int) -> None:
        self.delays: dict[Direction, Delay] = {"up": Delay(), "down": Delay()}
        self.frozen: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        self.moved: dict[Direction, int] = {"up": 0, "down": 0}
        self.accepted = self.most_held = 0
        self.refuse_until = 0.0
        self.pairs: set[Pair] = set()
        self._listener, self._target, self._rate = listener, target, rate
        self._random = random.Random(seed)
        # It takes microseconds; epoll rounds up to milliseconds, which would be in every delay.
        self.selector = selectors.SelectSelector()
        listener.setblocking(False)
        self.selector.register(listener, READ, self._accept)

    # ---- what is asked of it

    def set_delay(self, direction: Direction, delay: Delay) -> None:
        """For the bytes that come from here on."""
        self.delays[direction] = delay
        for pair in self.pairs:
            line = getattr(pair, direction).line
            line.delay, line.hold = delay, delay.hold(self._rate)

    def reset(self, seconds: float) -> None:
        """Reset all connections, and those that come within `seconds`."""
        self.refuse_until = time.monotonic() + seconds
        for pair in list(self.pairs):
            self._abort(pair)

    def stats(self) -> dict[str, float]:
        """The counters."""
        return {
            "connections": len(self.pairs),
            "accepted": self.accepted,
            "up_bytes": self.moved["up"],
            "down_bytes": self.moved["down"],
            "held": sum(pipe.line.held for pair in self.pairs for pipe in pair.pipes),
            "most_held": self.most_held,
            "cpu_seconds": time.process_time(),
        }

    # ---- the loop

    def step(self) -> None:
        """Wait until a socket is ready or bytes are due, and move them."""
        now = time.monotonic()
        due = [
            max(at, self.frozen[pipe.direction])
            for pair in self.pairs
            for pipe in pair.pipes
            if pair.linked and not pipe.blocked and (at := pipe.line.next_due) is not None
        ]
        soonest = min(due, default=math.inf)
        timeout = None if soonest == math.inf else max(0.0, soonest - now)
        for key, mask in self.selector.select(timeout):
            key.data(mask)
        now = time.monotonic()
        for pair in list(self.pairs):
            if pair.linked:
                self._flush(pair, now)

    def close(self) -> None:
        """Close every socket."""
        for pair in list(self.pairs):
            self._abort(pair)
        self._listener.close()
        self.selector.close()

    # ---- connections

    def _accept(self, mask: int) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        if time.monotonic() < self.refuse_until or len(self.pairs) >= _MOST_CONNECTIONS:
            _reset(near)
            return
        far = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for each in (near, far):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_MS)
        pair = Pair(
            Pipe("up", near, far, self._line("up")),
            Pipe("down", far, near, self._line("down")),
        )
        self.accepted += 1
        self.pairs.add(pair)
        try:
            far.connect(self._target)
        except BlockingIOError:
            pass
        except OSError:
            self._abort(pair)
            return
        self._watch(pair, far, WRITE)

    def _line(self, direction: Direction) -> DelayLine:
        delay = self.delays[direction]
        return DelayLine(delay, delay.hold(self._rate), self._random.random)

    def _ready(self, pair: Pair, sock: socket.socket, mask: int) -> None:
        if pair not in self.pairs:
            return
        if not pair.linked:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._abort(pair)
                return
            pair.linked = True
        for pipe in pair.pipes:
            if mask & WRITE and pipe.sink is sock:
                pipe.blocked = False
            if mask & READ and pipe.source is sock:
                self._read(pipe)
        self._rewatch(pair)

    def _read(self, pipe: Pipe) -> None:
        try:
            chunk = pipe.source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            pipe.line.end(time.monotonic(), "reset")
            return
        if chunk:
            pipe.line.push(time.monotonic(), chunk)
            self.most_held = max(self.most_held, pipe.line.held)
        else:
            pipe.line.end(time.monotonic(), "eof")

    def _flush(self, pair: Pair, now: float) -> None:
        for pipe in pair.pipes:
            while not pipe.blocked and now >= self.frozen[pipe.direction]:
                what = pipe.line.first(now)
                if what is None:
                    break
                if what == "reset":
                    self._abort(pair)
                    return
                if what == "eof":
                    pipe.line.took_ending()
                    self._finish(pipe)
                    continue
                assert isinstance(what, memoryview)
                try:
                    sent = pipe.sink.send(what)
                except BlockingIOError:
                    pipe.blocked = True
                except OSError:
                    self._abort(pair)
                    return
                else:
                    pipe.line.took(sent)
                    self.moved[pipe.direction] += sent
                    pipe.blocked = sent < len(what)
        if pair.up.finished and pair.down.finished:
            self._forget(pair)
            for pipe in pair.pipes:
                pipe.source.close()
            return
        self._rewatch(pair)

    def _finish(self, pipe: Pipe) -> None:
        pipe.finished = True
        try:
            pipe.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pipe.line.ended = True

    # ---- what is watched

    def _rewatch(self, pair: Pair) -> None:
        for pipe, back in ((pair.up, pair.down), (pair.down, pair.up)):
            mask = 0 if pipe.line.ended or pipe.line.full else READ
            # `source` of one direction is the sink of the other.
            mask |= WRITE if back.blocked else 0
            self._watch(pair, pipe.source, mask)

    def _watch(self, pair: Pair, sock: socket.socket, mask: int) -> None:
        known = pair.masks.get(sock, 0)
        if mask == known:
            return
        pair.masks[sock] = mask
        if not mask:
            self.selector.unregister(sock)
            return
        data: Callable[[int], None] = lambda ready: self._ready(pair, sock, ready)  # noqa: E731
        (self.selector.modify if known else self.selector.register)(sock, mask, data)

    def _forget(self, pair: Pair) -> None:
        self.pairs.discard(pair)
        for sock in list(pair.masks):
            self._watch(pair, sock, 0)

    def _abort(self, pair: Pair) -> None:
        self._forget(pair)
        for pipe in pair.pipes:
            _reset(pipe.source)


def _reset(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # it is gone already
    finally:
        sock.close()
