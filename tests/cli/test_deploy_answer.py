"""What `slicemq deploy` tells of the coordinator's answer."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.progress import Progress

from coordinator.cli.common import Network
from coordinator.cli.deployment import Deployment, carry_out, unknown_nodes
from slicemq.messages import Artifact


@pytest.mark.parametrize(
    ("answer", "nodes"),
    [
        ({}, []),
        ({"unknown_nodes": ["pi-9", "pi-8"]}, ["pi-9", "pi-8"]),
        ({"unknown_nodes": "pi-9"}, []),
        ({"unknown_nodes": [7, None, "x" * 500]}, ["x" * 80]),
    ],
)
def test_only_names_are_taken_from_the_answer(answer: dict[str, Any], nodes: list[str]) -> None:
    assert unknown_nodes(answer) == nodes


def test_a_node_that_is_left_out_in_vain_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"name": "faces", "revision": "1-00000000", "unchanged": False, "unknown_nodes": ["pi-9"]}
    caller = SimpleNamespace(check_coordinator=lambda: None, ask=lambda *_: SimpleNamespace(body=body))
    following = SimpleNamespace(plan=lambda revision: None, running=None)
    monkeypatch.setattr("coordinator.cli.ask.calling", lambda net: nullcontext(caller))
    monkeypatch.setattr("coordinator.cli.upload.open_file", lambda file: None)
    monkeypatch.setattr("coordinator.cli.upload.Upload", lambda *_: SimpleNamespace(stop=lambda: None))
    monkeypatch.setattr("coordinator.cli.following.Following", lambda *_: following)
    asked = Deployment(Path("m.tflite"), "faces", Artifact("a" * 64, 5), {})
    with caplog.at_level(logging.WARNING, "slicemq.deploy"), Progress(disable=True) as progress:
        result = carry_out(cast(Network, None), asked, progress, wait=False, timeout=1.0)
    assert result["revision"] == "1-00000000"
    assert caplog.messages == ["--exclude pi-9: the cluster has no node of that name"]
