"""Bundles over the boards' own brokers: frames are right, and a data broker that dies costs none (rule 19)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from emulator.brokers import Amqtt, Broker, Mosquitto
from emulator.site import Site
from slicemq.session import Session
from tests.e2e.scene import PATIENT, Flow, Wire, deploy, model, new_site, start_node, started
from tests.waiting import eventually

# So slow a main broker limits, so that hops go over the receivers' boards; the pins make three slices.
LINE = (
    *("--broker-rate", "5", "--profile", "estimate", "--shape", "pipeline"),
    *(word for number in range(3) for word in ("--pin", f"s{number}=n{number + 1}")),
)


class Ear:
    """Hears every message on a broker: topics of frames, and what is retained there."""

    def __init__(self, broker: Broker, site: Site) -> None:
        self.topics: set[str] = set()
        self.retained: list[str] = []
        self._session = Session(broker.options, f"ear-{secrets.token_hex(4)}", on_message=self._heard)
        self._session.subscribe(f"slicemq/v1/{site.cluster}/data/#", f"slicemq/v1/{site.cluster}/nodes/#")

    def __enter__(self) -> Ear:
        self._session.start()
        self._session.wait_up(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._session.stop()

    def carries(self, revision: str, bundle: str) -> bool:
        """Whether frames of this bundle were heard."""
        return any(topic.endswith(f"/{revision}/{bundle}") for topic in tuple(self.topics))

    def _heard(self, topic: str, _payload: bytes, retained: bool) -> None:
        self.topics.add(topic)
        if retained:
            self.retained.append(topic)


@pytest.fixture
def boards(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Site, dict[str, Broker]]]:
    """A site of three nodes; n2 has a mosquitto on its board, n3 an amqtt."""
    with ExitStack() as opened:
        site = opened.enter_context(new_site(tmp_path, request.param))
        brokers: dict[str, Broker] = {
            "n2": opened.enter_context(Mosquitto()),
            "n3": opened.enter_context(Amqtt()),
        }
        site.start_coordinator(*PATIENT)
        start_node(site, "n1")
        for name, broker in brokers.items():
            start_node(site, name, "--data-broker", broker.url)
        site.wait_ready(["n1", "n2", "n3"])
        yield site, brokers


def carriers(plan: Any) -> dict[str, str]:
    """Bundle -> the node whose data broker carries it, of a plan file's content."""
    return {row["id"]: row["broker"] for row in plan["bundles"] if row["broker"]}


@pytest.mark.parametrize("boards", ["mosquitto", pytest.param("amqtt", marks=pytest.mark.slow)], indirect=True)
def test_frames_travel_over_the_boards_and_survive_a_broker_that_dies(
    boards: tuple[Site, dict[str, Broker]],
) -> None:
    site, brokers = boards
    listed = {row["node"]: row["data_broker"] for row in site.json("node", "list")["nodes"]}
    assert listed == {"n1": "", "n2": brokers["n2"].url, "n3": brokers["n3"].url}
    answer = deploy(site, model(), "faces", *LINE)
    first, carried = answer["revision"], carriers(answer["plan"])
    assert {"n2", "n3"} <= set(carried.values())
    with (
        Wire(site) as wire,
        Ear(site.broker, site) as main,
        Ear(brokers["n2"], site) as second,
        Ear(brokers["n3"], site) as third,
        Flow(site, model()) as flow,
    ):
        flow.passes(20)
        for bundle, node in carried.items():
            own, other = (second, third) if node == "n2" else (third, second)
            eventually(lambda own=own, bundle=bundle: own.carries(first, bundle))  # type: ignore[misc]
            assert not main.carries(first, bundle)
            assert not other.carries(first, bundle)

        brokers["n3"].kill()
        flow.moves_on()
        flow.passes(20)
        assert "n3" not in carriers(wire.plan().plan).values()
        assert "n2" in carriers(wire.plan().plan).values()
        shown = site.command("status").stdout
        assert f"over data brokers: {next(b for b, n in carriers(wire.plan().plan).items())} on n2" in shown
    assert not second.retained
    assert not third.retained
    assert "data broker" in (site.folder / "n3.log").read_text()


@pytest.mark.slow
def test_a_data_broker_that_never_answered_is_used_when_it_comes(tmp_path: Path) -> None:
    broker = Mosquitto()
    with new_site(tmp_path) as site, ExitStack() as later:
        later.callback(broker.close)
        started(site, ["n1", "n2"], "--data-broker", broker.url, coordinator=PATIENT)
        assert all(row["data_broker"] == "" for row in site.json("node", "list")["nodes"])
        assert "the data broker is left out until it answers" in (site.folder / "n1.log").read_text()
        deploy(site, model(), "faces", *LINE[:-2])
        with Wire(site) as wire, Flow(site, model()) as flow:
            flow.passes(5)
            assert not carriers(wire.plan().plan)
            broker.start()
            eventually(lambda: all(row["data_broker"] for row in site.json("node", "list")["nodes"]), 30.0)
            answer = deploy(site, model(), "faces", *LINE[:-2], "--max-slices", "2")
            assert carriers(answer["plan"])
            flow.passes(20)
