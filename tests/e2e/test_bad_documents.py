"""Wrong bytes on every kind of topic: refused with a word, healed by whoever owns the topic, and nothing lost."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from emulator.site import Site
from slicemq.datalink import DataLink, open_link
from slicemq.errors import SliceMQError
from slicemq.frames import FrameHeader, encode_frame
from slicemq.messages import (
    Assignment,
    Capacity,
    CoordinatorState,
    NodeState,
    PipelineDocument,
    PlanDocument,
    Report,
    decode,
)
from tests.e2e.scene import Flow, Wire
from tests.waiting import eventually

VERSION_2 = json.dumps({"protocol": "2.0", "node": "n1"}).encode()
WRONG = {
    "not-json": b"\x00\xffnot JSON",
    "an-array": b"[1, 2, 3]",
    "no-version": b"{}",
    "wrong-fields": json.dumps({"protocol": "1.0", "stamp": "yesterday", "node": 7, "slices": "all"}).encode(),
    "deep": b"[" * 100_000,
    "another-version": VERSION_2,
}
OWNED = {
    "nodes/n1/state": NodeState,
    "nodes/n1/capacity": Capacity,
    "nodes/n1/report": Report,
    "nodes/n1/assignment": Assignment,
    "pipelines/faces": PipelineDocument,
    "pipelines/faces/plan": PlanDocument,
    "coordinator": CoordinatorState,
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_foreign_content_is_refused_and_healed(site: Site, wire: Wire, undisturbed: Flow, wrong: str) -> None:
    prefix = wire.topics.prefix
    for leaf in OWNED:
        wire.say(f"{prefix}/{leaf}", WRONG[wrong], retain=True)
    for leaf in ("nodes/n1/heartbeat", "coordinator/marker", "requests/cli-1/deploy", "requests/cli-1/nonsense"):
        wire.say(f"{prefix}/{leaf}", WRONG[wrong])
    for leaf, kind in OWNED.items():
        topic = f"{prefix}/{leaf}"
        said = (topic, WRONG[wrong])
        eventually(partial(wire.heard.__contains__, said))

        def healed(topic: str = topic, kind: type = kind) -> bool:
            try:
                decode(kind, wire.documents[topic], topic)
            except SliceMQError:
                return False
            return True

        eventually(healed, 15.0)
    undisturbed.passes(20)
    status = site.json("status")
    assert {row["node"]: row["state"] for row in status["nodes"]} == dict.fromkeys(site.nodes, "ready")
    assert status["coordinator"]["state"] == "ready"


def test_what_the_logs_say(site: Site, wire: Wire, undisturbed: Flow) -> None:
    coordinator = site.coordinator
    assert coordinator is not None
    mark = secrets.token_hex(4)
    wire.say(f"{wire.topics.prefix}/requests/{mark}/deploy", b"not JSON")
    eventually(lambda: f"requests/{mark}/deploy: not JSON" in coordinator.log.read_text())
    wire.say(f"{wire.topics.prefix}/nodes/n1/report", VERSION_2, retain=True)
    eventually(lambda: "this software speaks '1.4'" in coordinator.log.read_text())
    wire.say(f"{wire.topics.prefix}/nodes/n2/assignment", b"{", retain=True)
    eventually(lambda: "nodes/n2/assignment: not JSON" in site.nodes["n2"].log.read_text())


@pytest.fixture
def link(site: Site) -> Iterator[DataLink]:
    opened = open_link(site.options, f"liar-{secrets.token_hex(4)}", on_frame=lambda topic, payload: None)
    opened.start()
    opened.wait_up(10.0)
    yield opened
    opened.stop()


def test_lying_frames_on_a_live_data_topic(site: Site, wire: Wire, undisturbed: Flow, link: DataLink) -> None:
    document = wire.pipeline()
    assert document is not None
    (route,) = [route for route in document.routes if route.state == "active"]
    (bundle,) = route.entry
    (spec,) = bundle.tensors
    topic = wire.topics.data("faces", route.revision, bundle.id)
    header = FrameHeader("mallory", 1, 0, 0.0, route.revision)
    array = np.zeros(spec.shape, spec.dtype)
    good = b"".join(bytes(part) for part in encode_frame(header, [(spec, array)]))
    length = int.from_bytes(good[8:12], "big")
    (node,) = [row["node"] for row in shown(site) if row["slice"] == "s0"]
    dropped = dropped_by(site)

    def lie(payload: bytes) -> None:
        assert link.send(topic, [payload])

    # First what can still be read, so that the log has a sender to name.
    short = np.zeros((1, 2), spec.dtype)
    lie(b"".join(bytes(part) for part in encode_frame(header, [(spec, short)])))
    eventually(lambda: "from client mallory" in site.nodes[node].log.read_text())
    lies = [
        b"",
        b"\x00",
        good[:12],
        good[:-1],
        good + b"\x00",
        good[:8] + (length + 1).to_bytes(4, "big") + good[12:],
        good[:8] + (0xFFFFFFFF).to_bytes(4, "big") + good[12:],
        good[:4] + b"\x09" + good[5:],
        good.replace(b"mallory", b"mall/+#"),
        secrets.token_bytes(5_000_000),
        whole(encode_frame(dataclasses.replace(header, revision="9-00000000"), [(spec, array)])),
        whole(encode_frame(header, [(dataclasses.replace(spec, index=spec.index + 1000), array)])),
        whole(encode_frame(header, [(spec, array.astype(np.int8))])),
        whole(encode_frame(header, [(spec, array), (spec, array)])),
        whole(encode_frame(header, [])),
    ]
    for payload in lies:
        lie(payload)
    # All but the empty one, which is no frame at all on the way, are counted.
    eventually(lambda: dropped_by(site) >= dropped + len(lies), 20.0, every=0.3)
    undisturbed.passes(20)


def whole(parts: list[bytes | memoryview]) -> bytes:
    return b"".join(bytes(part) for part in parts)


def shown(site: Site) -> list[dict[str, Any]]:
    (row,) = [row for row in site.json("status")["pipelines"] if row["name"] == "faces"]
    slices: list[dict[str, Any]] = row["slices"]
    return slices


def dropped_by(site: Site) -> int:
    return sum(row["dropped"] or 0 for row in shown(site))


def test_garbage_on_the_results_topic(site: Site, wire: Wire, undisturbed: Flow, link: DataLink) -> None:
    topic = wire.topics.results("faces", undisturbed.client)
    for payload in (b"x", secrets.token_bytes(1000), secrets.token_bytes(1_000_000)):
        assert link.send(topic, [payload])
    eventually(lambda: sum(undisturbed.dropped().values()) >= 3)
    undisturbed.passes(20)
