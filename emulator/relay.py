"""A TCP relay that adds delay, jitter and cut-offs: what netem would do where the kernel has none.

    python -m emulator.relay --listen 127.0.0.1:1883 --to 10.0.0.1:1883 [--up-ms 3] [--down-ms 3] [--jitter-ms 2]

`up` is from those who connect to `--to`, `down` the way back; the delays are one-way. It tells
`{"event": "listening", "port": ...}` on standard output, takes one JSON command a line from standard input, answers
each with one line, and ends when standard input ends (so it cannot outlive the one that started it):

| command                                                        | what it does                                 |
| -------------------------------------------------------------- | -------------------------------------------- |
| {"do": "delay", "direction": D, "delay_ms": x, "jitter_ms": y} | for bytes that come from here on             |
| {"do": "freeze", "direction": D, "seconds": x or null}         | nothing moves for x s (null: until `thaw`)   |
| {"do": "thaw", "direction": D}                                 | ends a freeze                                |
| {"do": "reset", "seconds": x}                                  | resets all connections, new ones too for x s |
| {"do": "stats"}                                                | counters; `cpu_seconds` is the relay's own   |

D is `up`, `down` or `both` (default). Memory is bounded: a direction of a connection of which
2 x rate x (delay + jitter) bytes, at least 4 MB, are on their way is not read until some have left, so TCP holds
the sender back.

The handshake of TCP itself is not delayed. One thread moves all bytes of all connections; `python -m
benchmarks.relay` prints how many a second.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import sys
import time
from typing import Any, get_args

from emulator.delayline import Delay
from emulator.forwarding import READ, Direction, Relay

_MOST_LINE = 65_536
_LONGEST_MS = 60_000.0
_GBIT = 125e6


class BadCommandError(Exception):
    """A control line that is not what the module's table says."""


def obey(relay: Relay, line: bytes) -> dict[str, Any]:
    """Carry out one control line and give the answer. Raises BadCommandError."""
    try:
        command = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadCommandError(f"not JSON: {error}") from error
    if not isinstance(command, dict):
        raise BadCommandError(f"expected an object, got {command!r}")
    what = command.get("do")
    match what:
        case "delay":
            delay = Delay(_number(command, "delay_ms", _LONGEST_MS) / 1e3, _jitter(command) / 1e3)
            for direction in _directions(command):
                relay.set_delay(direction, delay)
        case "freeze":
            endless = command.get("seconds") is None
            until = math.inf if endless else time.monotonic() + _number(command, "seconds", math.inf)
            for direction in _directions(command):
                relay.frozen[direction] = until
        case "thaw":
            for direction in _directions(command):
                relay.frozen[direction] = 0.0
        case "reset":
            relay.reset(_number({"seconds": 0, **command}, "seconds", math.inf))
        case "stats":
            return {"done": what, **relay.stats()}
        case _:
            raise BadCommandError(f"do: expected delay, freeze, thaw, reset or stats, got {what!r}")
    return {"done": what}


def _jitter(command: dict[str, Any]) -> float:
    return _number({"jitter_ms": 0, **command}, "jitter_ms", _LONGEST_MS)


def _number(command: dict[str, Any], name: str, most: float) -> float:
    value = command.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= most:
        raise BadCommandError(f"{name}: expected a number from 0 to {most:g}, got {value!r}")
    return float(value)


def _directions(command: dict[str, Any]) -> tuple[Direction, ...]:
    value = command.get("direction", "both")
    known: tuple[Direction, ...] = get_args(Direction)
    if value == "both":
        return known
    if value not in known:
        raise BadCommandError(f"direction: expected up, down or both, got {value!r}")
    return (value,)


class _Control:
    """Standard input in lines, inside the relay's own loop."""

    def __init__(self, relay: Relay) -> None:
        self.ended = False
        self._relay = relay
        self._rest = b""
        os.set_blocking(0, False)
        relay.selector.register(0, READ, self._read)

    def _read(self, mask: int) -> None:
        try:
            got = os.read(0, _MOST_LINE)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + got).split(b"\n")
        for line in lines:
            try:
                answer = obey(self._relay, line)
            except BadCommandError as error:
                answer = {"error": str(error)}
            tell(answer)
        if not got or len(self._rest) > _MOST_LINE:
            self.ended = True


def tell(answer: dict[str, Any]) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return host, int(port)


def main(arguments: list[str] | None = None) -> int:
    """Relay until standard input ends."""
    parser = argparse.ArgumentParser(
        prog="python -m emulator.relay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--listen", type=_address, required=True, help="HOST:PORT; port 0: any free one")
    parser.add_argument(
        "--to", type=_address, required=True, help="HOST:PORT of the broker (HOST: an IPv4 address)"
    )
    parser.add_argument("--up-ms", type=float, default=0.0)
    parser.add_argument("--down-ms", type=float, default=0.0)
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="in each direction")
    parser.add_argument("--rate-mbps", type=float, default=1000.0, help="of the link: how much may be on its way")
    parser.add_argument("--seed", type=int, default=1, help="of the jitter")
    given = parser.parse_args(arguments)
    # Ctrl-C in a terminal reaches everybody; the one that started the relay ends it by its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.create_server(given.listen, backlog=128)
    relay = Relay(listener, given.to, given.rate_mbps / 1e3 * _GBIT, given.seed)
    relay.set_delay("up", Delay(given.up_ms / 1e3, given.jitter_ms / 1e3))
    relay.set_delay("down", Delay(given.down_ms / 1e3, given.jitter_ms / 1e3))
    control = _Control(relay)
    tell({"event": "listening", "port": listener.getsockname()[1]})
    while not control.ended:
        relay.step()
    relay.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
