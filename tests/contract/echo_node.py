"""A pipeline for the client's tests: one slice that answers each frame with twice its input, under test control."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from emulator.brokers import Broker
from slicemq.datalink import open_link
from slicemq.frames import Frame, FrameHeader, decode_frame, encode_frame
from slicemq.messages import (
    Bundle,
    PipelineDocument,
    PipelineStateWord,
    Route,
    RouteStateWord,
    Stamp,
    TensorSpec,
    encode,
)
from slicemq.session import Session
from slicemq.specs import spec_digest
from slicemq.topics import Topics

NAME = "double"
IMAGE = TensorSpec(0, "image", "float32", (1, -1))
TWICE = TensorSpec(7, "twice", "float32", (1, -1))
SUM = TensorSpec(8, "sum", "float32", ())
R1, R2, R3 = "1-aaaaaaaa", "2-bbbbbbbb", "3-cccccccc"


def route(revision: str, state: RouteStateWord = "active", parts: int = 1, codec: str = "raw") -> Route:
    return Route(revision, state, 1.0, (Bundle("b0", (IMAGE,), codec),), parts)


class EchoNode:
    """Answers on every revision that it was told to serve; `hold` keeps frames back, `answers` counts."""

    def __init__(
        self, broker: Broker, cluster: str, revision: str, *, parts: int = 1, turn: int | None = None
    ) -> None:
        self.topics = Topics(cluster)
        self.revision = revision
        self.parts = parts
        self.lock = threading.Lock()
        self.holding = False
        self.held: list[Frame] = []
        self.got: list[int] = []
        self.silent = False
        self.spoil: Callable[[FrameHeader], FrameHeader] | None = None
        self.error = ""
        self.copies = 1
        self.link = open_link(broker.options, f"n-{secrets.token_hex(4)}", on_frame=self.on_frame)
        self.link.start()
        self.link.wait_up(10)
        self.link.subscribe([self.topics.data(NAME, revision, "b0", turn)])

    def on_frame(self, _topic: str, payload: bytes | memoryview) -> None:
        frame = decode_frame(payload)
        with self.lock:
            self.got.append(frame.header.sequence)
            if self.silent:
                return
            if self.holding:
                self.held.append(frame)
                return
        self.answer(frame)

    def answer(self, frame: Frame, *only: int) -> None:
        """Send the result, or `only` these parts of it."""
        (image,) = frame.arrays().values()
        header = self.spoil(frame.header) if self.spoil else frame.header
        topic = self.topics.results(NAME, header.client)
        if self.error:
            self.link.send(topic, encode_frame(replace(header, error=self.error, message="boom"), []))
            return
        outputs = [(TWICE, image * 2), (SUM, np.array(image.sum(), np.float32))]
        for _ in range(self.copies):
            for part in only or range(self.parts):
                mine = outputs if self.parts == 1 else [outputs[part]]
                self.link.send(topic, encode_frame(replace(header, part=part, parts=self.parts), mine))

    def release(self, *, backwards: bool = False) -> None:
        """Answer what was held back, and hold nothing any more."""
        with self.lock:
            self.holding = False
            held, self.held = self.held, []
        for frame in reversed(held) if backwards else held:
            self.answer(frame)

    def stop(self) -> None:
        self.link.stop()


class Master:
    """Publishes the pipeline's document as a coordinator would, and watches what clients ask."""

    def __init__(self, broker: Broker, cluster: str) -> None:
        self.topics = Topics(cluster)
        self.counter = 0
        self.asked: list[tuple[str, bytes]] = []
        self.session = Session(
            broker.options, f"m-{secrets.token_hex(4)}", on_message=lambda t, p, _r: self.asked.append((t, p))
        )
        self.session.subscribe(self.topics.request("+", "+"))
        self.session.start()
        self.session.wait_up(10)

    def publish(
        self,
        *routes: Route,
        state: PipelineStateWord = "running",
        window: int = 4,
        clients: int = 1,
        outputs: tuple[TensorSpec, ...] = (TWICE, SUM),
    ) -> None:
        self.counter += 1
        document = PipelineDocument(
            name=NAME,
            stamp=Stamp(1, "m", self.counter),
            state=state,
            reason="",
            model="0" * 64,
            spec=spec_digest((IMAGE,), outputs),
            inputs=(IMAGE,),
            outputs=outputs,
            routes=routes,
            window=window,
            clients=clients,
        )
        self.raw(encode(document))

    def raw(self, payload: bytes) -> None:
        self.session.own(self.topics.pipeline(NAME), payload)

    def verbs(self, client: str) -> list[str]:
        return [topic.split("/")[-1] for topic, _ in self.asked if f"/{client}/" in topic]

    def stop(self) -> None:
        self.session.stop()
