"""The parts of the benchmarks that compute: what they print must follow from what they measured."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.bare_mqtt import BareMqtt, bare_echo
from benchmarks.hop import Row as HopRow
from benchmarks.hop import _row as hop_row
from benchmarks.hop import marks as hop_marks
from benchmarks.load_at_tenth import Finding, between, judge
from benchmarks.memory import IDLE_NODE_MARK, Row, SliceRow, report
from benchmarks.overhead import KINDS, assignment, elements, fit, payloads, tiny_model
from benchmarks.overhead import Row as OverheadRow
from benchmarks.overhead import marks as overhead_marks
from benchmarks.overhead_real import Row as RealRow
from benchmarks.overhead_real import fit as overhead_fit
from benchmarks.processes import children, cpu_seconds, parse_smaps, read_memory
from benchmarks.profile_transfer import _row as transfer_row
from benchmarks.window import smallest_enough
from edge_node.fit import check_fit
from edge_node.runtime import open_interpreter
from emulator.brokers import Broker
from slicemq.errors import SliceMQError
from slicemq.frames import decode_frame

FOLDER = Path(__file__).parents[2] / "benchmarks"
# Programs that other benchmarks run, and the list itself.
HELPERS = {"__main__", "bare_mqtt", "chaos_client", "keras_models", "light_fleet", "light_sessions"}


def test_the_list_names_every_benchmark_and_no_other() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks"], capture_output=True, text=True, check=True)
    programs = {
        path.stem for path in FOLDER.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
    } - HELPERS
    assert {one.name for one in BENCHMARKS} == programs
    for one in BENCHMARKS:
        assert one.name in done.stdout
        assert one.feeds == "-" or (FOLDER.parent / one.feeds).is_file()


def test_memory_of_a_process_counts_what_it_allocates() -> None:
    before = read_memory(os.getpid())
    # Not from the heap, which may have room that other tests left.
    block = mmap.mmap(-1, 30_000_000)
    block[::4096] = b"x" * len(range(0, len(block), 4096))
    after = read_memory(os.getpid())
    assert 25_000_000 < after.rss - before.rss < 60_000_000
    assert after.pss <= after.rss
    assert len(block) == 30_000_000


def test_smaps_without_its_fields_is_an_error() -> None:
    assert parse_smaps("Rss: 10 kB\nPss: 4 kB\nPss_Anon: 3 kB\n").pss == 4096
    with pytest.raises(SliceMQError, match="no Rss and Pss"):
        parse_smaps("Rss: 10 kB\n")
    with pytest.raises(SliceMQError, match="cannot be read"):
        read_memory(2**22 + 1)


def test_children_and_processor_time_of_a_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        assert child.pid in children(os.getpid())
        child.kill()
    assert child.pid not in children(os.getpid())
    before, used = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - used < 0.2:
        pass
    assert cpu_seconds(os.getpid()) - before == pytest.approx(0.2, rel=0.3)


def test_a_process_over_its_mark_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("idle node", IDLE_NODE_MARK + 0.1, 20.0, IDLE_NODE_MARK), Row("other", 10.0, 5.0, 60.0)]
    assert [row.missed for row in rows] == [True, False]
    slices = [SliceRow("m", "s0", 70.0, 40.0, 15.0, 12.0)]
    report(rows, slices, "json")
    body = json.loads(capsys.readouterr().out)
    assert [row["missed"] for row in body["processes"]] == [True, False]
    assert body["slices"][0]["ratio"] == pytest.approx(1.25)
    report(rows, slices, "text")
    text = capsys.readouterr().out
    assert "| idle node | 35.1 | 20.0 | 35 | missed |" in text
    assert "| m s0 | 70.0 | 40.0 | 15.0 | 12.0 | 1.25 |" in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [4, 1000, 100_000])
def test_tiny_models_fit_their_assignment_and_move_the_tensor(kind: str, size: int) -> None:
    interpreter = open_interpreter(tiny_model(kind, size))
    check_fit(assignment(kind, size), interpreter)
    taken, given = elements(kind, size)
    array = np.random.default_rng(1).random((1, taken), np.float32)
    interpreter.set_input(0, array)
    interpreter.invoke()
    made = interpreter.output(0)
    assert made.shape == (1, given)
    assert (made == (array if kind == "both" else array[0, 0])).all()
    assert max(array.nbytes, made.nbytes) == size


def test_the_tensor_travels_with_the_codec_that_is_asked_for() -> None:
    taken, _ = elements("both", 4000)
    frames = [payloads(taken, "int8")(number) for number in (0, 7)]
    sent = decode_frame(frames[1])
    assert (sent.tensors[0].codec, sent.arrays()[0].shape) == ("int8", (1, taken))
    assert len(frames[0]) == len(frames[1])
    asked = assignment("both", 4000, "int8")
    assert asked.result is not None
    assert asked.inputs[0].codec == asked.result.codec == "int8"


def _row(size: int, kind: str, added: float) -> OverheadRow:
    return OverheadRow(size, kind, "own", added + 0.5, 0.5, 0.1)


def test_the_line_through_the_sizes() -> None:
    rows = [_row(size, "both", 0.2 + 1.5 * size / 1e6) for size in (1_000, 100_000, 3_200_000)]
    line = fit([*rows, _row(1_000, "send", 1.0)])
    assert {link: set(kinds) for link, kinds in line.items()} == {"own": {"both"}}
    assert line["own"]["both"]["per_frame_ms"] == pytest.approx(0.2)
    assert line["own"]["both"]["per_mb_ms"] == pytest.approx(1.5)


def test_what_a_node_adds_is_judged_per_mb_and_only_on_the_own_link() -> None:
    rows = [_row(1_000, "receive", 0.2), _row(2_000_000, "receive", 0.9), _row(2_000_000, "send", 1.5)]
    found = overhead_marks([*rows, replace(rows[1], link="paho", cpu_ms=9.0), _row(2_000_000, "both", 9.0)])
    assert [mark.held for mark in found] == [True, False]
    assert [round(mark.value or 0.0, 6) for mark in found] == [0.45, 0.75]


def test_what_a_hop_adds_is_judged_by_time_when_small_and_by_share_when_large() -> None:
    rows = [
        HopRow(1_000, "own", 0.1, 0.35, 0.4, 0.1, 0.15),
        HopRow(1_000, "own", 0.1, 0.45, 0.5, 0.1, 0.25),
        HopRow(1_000_000, "own", 4.0, 5.0, 6.0, 0.5, 0.5),
        HopRow(1_000_000, "own", 4.0, 5.4, 6.0, 0.5, 0.9),
        HopRow(1_000_000, "paho", 4.0, 9.0, 9.0, 0.5, 4.5),
    ]
    found = hop_marks(rows)
    assert [mark.held for mark in found] == [True, False, True, False]
    assert [round(mark.value or 0.0, 6) for mark in found] == [0.15, 0.25, 12.5, 22.5]


def test_what_the_planner_should_count_is_found_again_and_never_negative() -> None:
    sizes = [(0.05, 0.0), (0.4, 0.01), (0.8, 0.06), (0.6, 4.0), (4.0, 2.0), (2.0, 3.2)]

    def rows(message: float, taken: float, made: float) -> list[RealRow]:
        return [RealRow("s", a, b, 2.0, 2.1, 2 * message + taken * a + made * b) for a, b in sizes]

    found = overhead_fit(rows(0.1, 0.6, 0.2))
    assert [found.message_ms, found.in_ms_per_mb, found.out_ms_per_mb] == pytest.approx([0.1, 0.6, 0.2])
    assert found.computing == pytest.approx(1.05)
    assert [found.of(row) for row in rows(0.1, 0.6, 0.2)] == pytest.approx(
        [row.besides_ms for row in rows(0.1, 0.6, 0.2)]
    )
    lower = overhead_fit(rows(0.3, 0.5, -0.05))
    assert lower.out_ms_per_mb == 0.0
    assert lower.message_ms > 0


def test_what_a_hop_adds_is_taken_round_by_round() -> None:
    """A machine that gets slower from round to round meets both in each."""
    bare = [[0.001, 0.001, 0.009], [0.002, 0.002, 0.002], [0.004, 0.004, 0.001]]
    worker = [[0.0015, 0.0015, 0.001], [0.0026, 0.0025, 0.0024], [0.0046, 0.0046, 0.1]]
    row = hop_row(1_000, "own", bare, worker, [0.2, 0.2, 0.3])
    assert row.added_ms == pytest.approx(0.5 - 0.2)
    assert row.bare_ms == pytest.approx(2.0)
    assert row.worker_ms == pytest.approx(2.5)


def test_bare_sockets_speak_mqtt_with_a_broker(mosquitto: Broker) -> None:
    with (
        bare_echo(mosquitto.options, "there", "back"),
        BareMqtt(mosquitto.options, "back", "there") as connection,
    ):
        for size in (1, 127, 128, 20_000, 3_000_000):
            payload = os.urandom(size)
            connection.send(memoryview(payload))
            assert bytes(connection.receive()) == payload


def test_the_smallest_window_that_is_enough() -> None:
    assert smallest_enough({1: 5.0, 2: 9.4, 3: 9.5, 4: 10.0}) == 3
    assert smallest_enough({1: 10.0, 2: 9.0}) == 1
    assert smallest_enough({1: 5.0, 2: 9.4, 3: 9.5, 4: 10.0}, share=1.0) == 4


def _watch(**changes: object) -> SimpleNamespace:
    seen = {
        "beats": [0.0, 0.4, 0.8, 1.2, 1.9, 2.3],
        "states": ["init", "ready", "ready"],
        "slices": [(0.5, "1-00000000", "fetching"), (1.0, "1-00000000", "loading"), (2.0, "1-00000000", "ready")],
        "revisions": ["1-00000000"],
    }
    return SimpleNamespace(**(seen | changes))


def test_gaps_between_heartbeats() -> None:
    assert between([1.0, 1.5, 3.5]) == [0.5, 2.0]
    finding = judge("m", 0.1, _watch(), 0.0, 2.5, "")
    assert finding.longest_gap == pytest.approx(0.7)
    assert finding.gap_while_loading == pytest.approx(0.7)
    assert finding.loading == pytest.approx(1.0)
    assert finding.false_losses == []
    with pytest.raises(SliceMQError, match="fewer than two"):
        judge("m", 0.1, _watch(beats=[1.0]), 0.0, 1.0, "")


@pytest.mark.parametrize(
    ("changes", "log", "words"),
    [
        ({"states": ["ready", "lost", "ready"]}, "", "'lost'"),
        ({"beats": [0.0, 0.4, 2.0]}, "", "no heartbeat for 1.60 s"),
        ({"revisions": ["1-00000000", "2-00000000"]}, "", "more than one revision"),
        ({"slices": [(1.0, "1-00000000", "failed")]}, "", "slice failed"),
        ({}, "INFO: node tenth lost\n", "node tenth lost"),
        ({}, "INFO: 1-00000000 was abandoned: late\n", "abandoned"),
    ],
)
def test_every_kind_of_false_loss_is_seen(changes: dict[str, object], log: str, words: str) -> None:
    finding: Finding = judge("m", 0.1, _watch(**changes), 0.0, 2.5, log)
    assert len(finding.false_losses) == 1
    assert words in finding.false_losses[0]


def test_a_time_is_predicted_by_the_ratio_of_each_class() -> None:
    mine = {
        "speeds": {"conv": 10.0, "moving": 4.0, "dense": 1.0},
        "models": {
            "m": {
                "seconds": {"0": 1.0, "3": 2.0},
                "classes": {"0": "conv", "3": "moving"},
                "whole": 3,
                "slices": [],
            }
        },
    }
    other = {
        "speeds": {"conv": 5.0, "moving": 8.0},
        "models": {"m": {"whole": 4.0, "slices": [{"steps": [0], "seconds": 2.5}, {"steps": [3], "seconds": 1.0}]}},
    }
    row = transfer_row("m", "a", "b", mine, other)
    assert row.predicted == pytest.approx(1.0 * 2 + 2.0 / 2)
    assert row.error == pytest.approx(-0.25)
    assert row.slices == pytest.approx((0.2 + 0.0) / 2)
