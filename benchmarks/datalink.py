"""CPU that one process spends to send and to receive frames: bare socket, own link and paho link; QoS 0 and QoS 1.

    python -m benchmarks.datalink [--broker mosquitto|amqtt|URL] [--repeat N] [--pause MS]
                                  [--write] [--format json]

Sender and receiver are processes of their own; CPU is theirs, not the broker's. The links' figures contain what a
node does with a frame: one copy into an input tensor, one copy out of an output tensor. The bare socket has no
broker, no copies, and a waiting call for everything: the least that the system asks for. Marks: the own link takes
at most 0.7 ms to send and 0.5 ms to receive a MB, from 1 MB on. The exit code is 1 when one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.datalink_ends import TOPIC, Cost, Way, measure, open_way
from benchmarks.machine import describe_machine
from benchmarks.marks import Mark
from benchmarks.pages import as_json, write_region
from emulator.brokers import Amqtt, Broker, Mosquitto
from slicemq.errors import SliceMQError
from slicemq.options import BrokerOptions
from slicemq.ownlink import OwnLink

# Frame size in bytes -> frames sent.
SIZES = {1_000: 4000, 100_000: 600, 1_000_000: 80, 3_200_000: 40}
_QOS_SIZES = {1_000: 2000, 100_000: 400, 1_000_000: 60}
# Milliseconds for each MB.
_MOST_SEND, _MOST_RECEIVE = 0.7, 0.5
_BREAK_FRAMES = 400
_BREAK_BYTES = 100_000
_BREAK_PAUSE = 0.03


@dataclass(frozen=True)
class Broken:
    """What came of `frames` frames while the broker was killed and started again in the midst of them.

    `refused` were not taken by the link (it was down), `unanswered` were taken and the broker did not confirm them
    (QoS 1): of both the sender knows. `lost` of all never came, be it known or not.
    """

    qos: int
    frames: int
    refused: int
    unanswered: int
    lost: int


@contextlib.contextmanager
def running(name: str) -> Iterator[BrokerOptions]:
    """The broker of that name, started for the time of the measurement; or the one at that URL."""
    kinds: dict[str, type[Broker]] = {"mosquitto": Mosquitto, "amqtt": Amqtt}
    if name in kinds:
        with kinds[name]() as broker:
            yield broker.options
    else:
        yield BrokerOptions.from_url(name)


def break_in_the_midst(qos: int) -> Broken:
    """Send frames one by one, and restart the broker after half of them."""
    with Mosquitto() as broker:
        way = Way("own", broker.options, qos=qos)
        came: set[int] = set()
        receiver = open_way(way, "bench-receiver", lambda _, payload: came.add(int.from_bytes(payload[:8], "big")))
        sender = open_way(way, "bench-sender", lambda *_: None)
        assert isinstance(sender, OwnLink)
        receiver.subscribe([TOPIC])
        for link in (receiver, sender):
            link.start()
            link.wait_up(10)
        restart = threading.Thread(target=broker.restart)
        body = bytes(_BREAK_BYTES)
        refused = 0
        for number in range(_BREAK_FRAMES):
            if number == _BREAK_FRAMES // 2:
                restart.start()
            if not sender.send(TOPIC, [number.to_bytes(8, "big"), body], timeout=5):
                refused += 1
                sender.wait_up(20)
                receiver.wait_up(20)
            time.sleep(_BREAK_PAUSE)
        restart.join()
        quiet, count = 0, -1
        while quiet < 10:
            quiet, count = (quiet + 1, count) if len(came) == count else (0, len(came))
            time.sleep(0.1)
        unanswered = sender.unanswered
        for link in (receiver, sender):
            link.stop()
        return Broken(qos, _BREAK_FRAMES, refused, unanswered, _BREAK_FRAMES - len(came))


def marks(costs: dict[str, dict[int, Cost]]) -> list[Mark]:
    """What the own link must keep from 1 MB on, in ms per MB."""
    found = []
    for size, cost in costs.get("own", {}).items():
        if size >= 1_000_000:
            found.append(Mark(f"{size} bytes, send, ms/MB", cost.send * 1e9 / size, most=_MOST_SEND))
            found.append(Mark(f"{size} bytes, receive, ms/MB", cost.receive * 1e9 / size, most=_MOST_RECEIVE))
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print the tables; 1 when a mark is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.datalink",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--broker", default="mosquitto", help="mosquitto, amqtt, or the URL of a running broker")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the best counts (default 3)")
    parser.add_argument("--pause", type=float, default=0.0, help="milliseconds between two frames (default 0)")
    parser.add_argument("--sizes", help="only these frame sizes, in bytes: 1000,100000 ...")
    parser.add_argument("--ways", default="bare,own,paho", help="only these: bare,own,paho")
    parser.add_argument("--no-qos", action="store_true", help="leave QoS 0 against QoS 1 out")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/explanation/performance.md")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(words)
    wanted = [int(one) for one in given.sizes.split(",")] if given.sizes else list(SIZES)
    sizes = {size: SIZES.get(size, max(20, 80_000_000 // size)) for size in wanted}
    costs: dict[str, dict[int, Cost]] = {}
    qos: dict[int, dict[int, Cost]] = {}
    broken: list[Broken] = []
    try:
        with running(given.broker) as options:
            for kind in given.ways.split(","):
                costs[kind] = measure(Way(kind, options), sizes, given.repeat, given.pause / 1e3)
            if not given.no_qos:
                qos = {level: measure(Way("own", options, qos=level), _QOS_SIZES, given.repeat) for level in (0, 1)}
        if not given.no_qos and given.broker == "mosquitto":
            broken = [break_in_the_midst(level) for level in (0, 1)]
    except SliceMQError as error:
        sys.stderr.write(f"datalink: {error}\n")
        return error.exit_code
    found = marks(costs)
    if given.format == "json":
        body = {
            "machine": describe_machine(),
            "broker": given.broker,
            "cost": {kind: {size: asdict(cost) for size, cost in row.items()} for kind, row in costs.items()},
            "qos": {level: {size: asdict(cost) for size, cost in row.items()} for level, row in qos.items()},
            "broken": [asdict(one) for one in broken],
            "marks": [one.to_plain() for one in found],
        }
        print(as_json(body))
    else:
        text = report(given.broker, costs, qos, broken)
        print(text)
        for one in found:
            print(f"{one.name}: {one.value:.2f}, at most {one.most}: {one.words}")
        if given.write:
            write_region("datalink", text)
    return 0 if all(one.held for one in found) else 1


def report(
    broker: str, costs: dict[str, dict[int, Cost]], qos: dict[int, dict[int, Cost]], broken: Sequence[Broken]
) -> str:
    """The tables as Markdown."""
    lines = [
        f"{describe_machine()}; broker: {broker}. Processor time of one process, ms per frame (ms per MB).",
        "",
    ]
    lines.append("| frame bytes | " + " | ".join(f"{kind}: send | receive" for kind in costs) + " |")
    lines.append("| --- " * (1 + 2 * len(costs)) + "|")
    for size in next(iter(costs.values())):
        cells = [_cell(one, size) for row in costs.values() for one in (row[size].send, row[size].receive)]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    lines.append("")
    if qos:
        lines.append("| frame bytes | " + " | ".join(f"QoS {one}: frames/s | send | receive" for one in qos) + " |")
        lines.append("| --- " * (1 + 3 * len(qos)) + "|")
        for size in _QOS_SIZES:
            cells = []
            for row in qos.values():
                cells += [f"{row[size].rate:.0f}", _cell(row[size].send, size), _cell(row[size].receive, size)]
            lines.append(f"| {size} | " + " | ".join(cells) + " |")
        lines.append("")
    if broken:
        lines.append(
            f"The broker killed and started again amid {_BREAK_FRAMES} frames of {_BREAK_BYTES} bytes, "
            f"{1 / _BREAK_PAUSE:.0f} a second:"
        )
        lines += [
            "",
            "| QoS | never came | not taken, link down | taken, not confirmed |",
            "| --- | --- | --- | --- |",
        ]
        for one in broken:
            confirmed = "-" if one.qos == 0 else str(one.unanswered)
            lines.append(f"| {one.qos} | {one.lost} | {one.refused} | {confirmed} |")
    return "\n".join(lines).strip() + "\n"


def _cell(seconds: float, size: int) -> str:
    return f"{seconds * 1e3:.3f} ({seconds * 1e9 / size:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
