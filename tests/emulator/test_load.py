"""Clients that load a pipeline, on a real broker with a pipeline that answers as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from emulator.brokers import Broker
from emulator.load import Asked, Frame, Load, Outputs, random_frame
from emulator.measure import drive
from slicemq.errors import PipelineError, SliceMQError
from slicemq.messages import TensorSpec
from slicemq.options import BrokerOptions
from tests.contract.echo_node import NAME, R1, EchoNode, Master, route
from tests.waiting import eventually


@dataclass
class Where:
    options: BrokerOptions
    cluster: str
    node: EchoNode
    master: Master
    nodes: dict[str, object] = field(default_factory=lambda: {"n": object()})

    def broker_cpu_seconds(self) -> float:
        return 0.0

    def links_bytes(self) -> dict[str, tuple[int, int]]:
        """One byte for each frame that the node got."""
        return {"n": (0, len(self.node.got))}


@pytest.fixture
def where(mosquitto: Broker, cluster: str) -> Iterator[Where]:
    master, node = Master(mosquitto, cluster), EchoNode(mosquitto, cluster, R1, parts=1)
    master.publish(route(R1))
    yield Where(mosquitto.options, cluster, node, master)
    node.stop()
    master.stop()


FRAMES: list[Frame] = [{0: np.full((1, 3), value, np.float32)} for value in (1.0, 2.0, 3.0)]


def _twice(frame: Frame) -> Outputs:
    return [frame[0] * 2, np.array(frame[0].sum(), np.float32)]


def _thrice(frame: Frame) -> Outputs:
    return [frame[0] * 3, np.array(frame[0].sum(), np.float32)]


def test_frames_of_several_clients_are_all_answered_and_compared(where: Where) -> None:
    asked = Asked(frames=20, clients=3, warm=2)
    found = drive(where, NAME, asked, frames=FRAMES, reference=_twice)
    assert found.figures.submitted == found.figures.answered == found.figures.compared == 60
    assert found.figures.sound
    assert found.figures.revisions == (R1,)
    assert {answer.client for answer in found.answers} == {0, 1, 2}
    assert 0 < found.figures.frames <= 54
    assert found.latency(50) <= found.latency(99)


def test_what_a_few_frames_use_is_all_counted(where: Where) -> None:
    found = drive(where, NAME, Asked(frames=20, warm=2), frames=FRAMES, counted=where)
    # Two are warm, and at most a window of four is on its way when the measurement begins.
    assert 14 <= found.nodes["n"].received <= 18
    assert found.nodes["n"].sent == 0
    assert found.broker_cpu == 0.0


def test_results_that_differ_from_one_device_are_found(where: Where) -> None:
    found = drive(where, NAME, Asked(frames=5, warm=0), frames=FRAMES, reference=_thrice)
    assert found.figures.different == 5
    assert not found.figures.sound


def test_a_measurement_by_seconds_begins_warm_and_has_its_least_frames(where: Where) -> None:
    begun: list[float] = []
    asked = Asked(seconds=0.05, limit=1, warm=3, least=6)
    found = drive(where, NAME, asked, frames=FRAMES, on_begin=lambda at, load: begun.append(at))
    assert begun == [found.began]
    assert found.window == 1
    assert found.ended - found.began >= 0.05
    assert found.figures.frames >= 6
    assert sum(answer.arrived <= found.began for answer in found.answers) == 3
    assert found.rate > 0


def test_a_fixed_rate_does_not_wait_for_answers(where: Where) -> None:
    asked = Asked(frames=12, rate=200.0, warm=2)
    found = drive(where, NAME, asked, frames=FRAMES, reference=_twice)
    assert found.figures.sound
    sent = [answer.submitted for answer in found.answers]
    assert np.diff(sent[2:]) == pytest.approx(0.005)
    assert all(answer.latency > 0 for answer in found.answers)


def test_a_pipeline_that_is_not_there_ends_it(where: Where) -> None:
    with pytest.raises(PipelineError, match="no pipeline 'nobody'"):
        drive(where, "nobody", Asked(frames=1))


@pytest.mark.parametrize("rate", [None, 50.0])
def test_a_pipeline_that_goes_away_under_the_load_fails_its_frames(where: Where, rate: float | None) -> None:
    def remove(began: float, load: Load) -> None:
        where.node.silent = True
        where.master.publish(route(R1), state="removed")

    found = drive(where, NAME, Asked(seconds=5.0, rate=rate, warm=2, least=1), frames=FRAMES, on_begin=remove)
    assert found.figures.failed > 0
    assert found.figures.answered >= 2
    assert not found.figures.sound


def test_closing_ends_clients_that_wait(where: Where) -> None:
    where.node.silent = True
    with Load(where, NAME, Asked(seconds=9.0), FRAMES) as load:
        ended: list[SliceMQError] = []

        def start() -> None:
            try:
                load.start()
            except SliceMQError as error:
                ended.append(error)

        starter = threading.Thread(target=start)
        starter.start()
        eventually(lambda: where.node.got)
        load.close()
        starter.join(20)
        # What the closed client says, or what is said of those that were waited for: whichever comes first.
        assert any(text in str(ended[0]) for text in ("not warm", "the client is closed"))


@pytest.mark.parametrize("asked", [Asked(), Asked(seconds=1.0, frames=1)])
def test_a_load_has_one_end(where: Where, asked: Asked) -> None:
    with pytest.raises(SliceMQError, match="either seconds or frames"):
        Load(where, NAME, asked)


def test_random_frames_fit_the_model() -> None:
    specs = [
        TensorSpec(0, "a", "float32", (1, -1)),
        TensorSpec(1, "b", "int8", (2, 2)),
        TensorSpec(2, "c", "int32", (3,)),
    ]
    frame = random_frame(specs, 5)
    assert {index: (array.dtype.name, array.shape) for index, array in frame.items()} == {
        0: ("float32", (1, 1)),
        1: ("int8", (2, 2)),
        2: ("int32", (3,)),
    }
    assert abs(frame[0]).max() <= 1
    assert not frame[2].any()
    assert (random_frame(specs, 5)[1] == frame[1]).all()
