"""Plain devices: mosquitto_pub and mosquitto_sub alone drive a camera pipeline (rule 25)."""

from __future__ import annotations

import hashlib
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emulator.site import Site
from slicemq.persistent import forget_session
from tests.e2e import scene
from tests.e2e.plain import Listener, body, ingress_state, picture_files, publish, start_ingress
from tests.waiting import eventually, never


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A pipeline `faces` over two nodes on mosquitto."""
    with scene.new_site(tmp_path) as made:
        scene.started(made, ["pi-1", "pi-2"])
        scene.deploy(made, scene.model())
        yield made


def test_rule_25_mosquitto_pub_and_sub_alone_drive_a_camera_pipeline(site: Site, tmp_path: Path) -> None:
    """Pictures, raw tensors and nonsense in; answers on each camera's topic; a crash loses nothing."""
    words = ("--out", "json")
    running = start_ingress(site, "cams/+/image", "cams/{1}/boxes", *words)
    files = picture_files(tmp_path, 4)
    raw = tmp_path / "frame.raw"
    raw.write_bytes(scene.inputs(scene.model())[0].tobytes())
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"nonsense")
    with Listener(site, "cams/+/boxes") as heard, scene.Wire(site) as wire:
        wire.listen(f"{wire.topics.prefix}/ingress/#")
        publish(site, "cams/raw/image", raw)
        publish(site, "cams/bad/image", bad)
        for number, file in enumerate(files[:2]):
            publish(site, f"cams/{number}/image", file)
        answers = dict(heard.wait(4))
        assert sorted(answers) == ["cams/0/boxes", "cams/1/boxes", "cams/bad/boxes", "cams/raw/boxes"]
        found = body(answers["cams/raw/boxes"])
        assert found["sha256"] == hashlib.sha256(raw.read_bytes()).hexdigest()
        (expected, *_) = scene.answers(scene.model())
        for row, wanted in zip(found["outputs"].values(), expected, strict=True):
            # Every digit that makes the same bits.
            assert np.array(row["data"], row["dtype"]).tobytes() == wanted
        wrong = body(answers["cams/bad/boxes"])
        assert wrong["error"] == "bad-message"
        assert "8 bytes" in wrong["reason"]
        assert body(answers["cams/0/boxes"])["input"] == {"format": "jpeg", "width": 240, "height": 180}
        eventually(lambda: (state := ingress_state(wire, site)) and state.state == "running")

        # Killed; what is published meanwhile waits in the broker, and comes when it lives again.
        running.signal(signal.SIGKILL)
        running.process.wait(10)
        eventually(lambda: (state := ingress_state(wire, site)) and state.state == "lost")
        for number, file in enumerate(files[2:], 2):
            publish(site, f"cams/{number}/image", file)
        running = start_ingress(site, "cams/+/image", "cams/{1}/boxes", *words)
        eventually(lambda: {"cams/2/boxes", "cams/3/boxes"} <= {topic for topic, _ in heard.messages}, 30.0)
        assert running.end() == 0
        eventually(lambda: (state := ingress_state(wire, site)) and state.state == "disconnected")

        # Retired: the session is gone, and so is its document.
        done = site.json("ingress", "retire", "faces")
        assert done == {"ingress": "faces", "session": True}
        assert forget_session(site.options, f"ingress.{site.cluster}.faces") is False
        eventually(lambda: ingress_state(wire, site) is None)


@pytest.mark.slow
def test_rule_25_killed_again_and_again_no_message_stays_unanswered(site: Site, tmp_path: Path) -> None:
    """Five SIGKILLs among forty messages; each message is answered at least once."""
    count = 40
    files = picture_files(tmp_path, 8)
    running = start_ingress(site, "cams/+/image", "cams/{1}/boxes")
    with Listener(site, "cams/+/boxes") as heard:
        for number in range(count):
            publish(site, f"cams/{number}/image", files[number % len(files)])
            if number % 8 == 7:
                running.signal(signal.SIGKILL)
                running.process.wait(10)
                running = start_ingress(site, "cams/+/image", "cams/{1}/boxes")
        wanted = {f"cams/{number}/boxes" for number in range(count)}
        eventually(lambda: wanted <= {topic for topic, _ in heard.messages}, 60.0)
        assert all("outputs" in body(payload) for _, payload in heard.messages)
        counted = Counter(topic for topic, _ in heard.messages)
        # Only what was unacknowledged at a kill can be repeated: at most 200 (the shipped max_inflight_messages).
        assert max(counted.values()) <= 6
    assert running.end() == 0


@pytest.mark.slow
def test_rule_25_a_broker_that_comes_back_has_its_unanswered_messages_answered(site: Site, tmp_path: Path) -> None:
    """The broker dies with messages in it, saves them (autosave), and the same ingress goes on."""
    running = start_ingress(site, "cams/+/image", "cams/{1}/boxes")
    files = picture_files(tmp_path, 6)
    site.command("undeploy", "faces")
    for number, file in enumerate(files):
        publish(site, f"cams/{number}/image", file)
    # Saved at most a second after the last change; the file says so itself.
    store = site.broker.folder / "slicemq.db"
    last = hashlib.sha256(files[-1].read_bytes()).hexdigest()
    eventually(lambda: store.exists() and files[-1].read_bytes() in store.read_bytes(), 20.0)
    site.broker.restart()
    site.wait_ready(["pi-1", "pi-2"])
    with Listener(site, "cams/+/boxes") as heard:
        scene.deploy(site, scene.model())
        wanted = {f"cams/{number}/boxes" for number in range(len(files))}
        eventually(lambda: wanted <= {topic for topic, _ in heard.messages}, 60.0)
        assert last in {body(payload)["sha256"] for _, payload in heard.messages}
    assert running.alive
    assert running.end() == 0


@pytest.mark.slow
def test_messages_are_held_until_the_pipeline_is_there(tmp_path: Path) -> None:
    """No pipeline, then one, then another model under its name: nothing is lost, nothing runs on the wrong one."""
    with scene.new_site(tmp_path) as site:
        scene.started(site, ["pi-1", "pi-2"])
        running = start_ingress(site, "cams/+/image", "cams/{1}/boxes")
        files = picture_files(tmp_path, 3)
        with Listener(site, "cams/+/boxes") as heard, scene.Wire(site) as wire:
            wire.listen(f"{wire.topics.prefix}/ingress/#")
            publish(site, "cams/0/image", files[0])
            eventually(lambda: (s := ingress_state(wire, site)) and s.state == "holding", 20.0)
            state = ingress_state(wire, site)
            assert state is not None
            assert "no pipeline 'faces'" in state.reason
            never(lambda: heard.messages)
            scene.deploy(site, scene.model())
            assert "outputs" in body(heard.wait(1)[0][1])
            # Other inputs: the same picture is read for the other model.
            scene.deploy(site, scene.model(scene.LARGER))
            publish(site, "cams/1/image", files[1])
            found = body(heard.wait(2)[1][1])
            assert found["outputs"].keys()
            assert found["revision"].startswith("2-")
        assert running.end() == 0


@pytest.mark.slow
def test_two_ingresses_of_one_id_the_earlier_one_ends(site: Site) -> None:
    """The session has one owner: exit code 71."""
    first = start_ingress(site, "cams/+/image", "cams/{1}/boxes")
    full = ["ingress", "run", "faces", "--from", "cams/+/image", "--to", "cams/{1}/boxes"]
    second = site.run("second", [sys.executable, "-m", "coordinator.cli", *full, *site.network_options()])
    eventually(lambda: not first.alive, 30.0)
    assert first.process.returncode == 71
    assert "another ingress 'faces'" in first.tail
    assert second.alive
    assert second.end() == 0


@pytest.mark.slow
def test_block_with_a_small_queue_answers_everything(site: Site, tmp_path: Path) -> None:
    """Without room messages are left with the broker and asked for again."""
    site.command("undeploy", "faces")
    running = start_ingress(site, "cams/+/image", "cams/{1}/boxes", "--queue", "2")
    files = picture_files(tmp_path, 12)
    with Listener(site, "cams/+/boxes") as heard, scene.Wire(site) as wire:
        wire.listen(f"{wire.topics.prefix}/ingress/#")
        for number, file in enumerate(files):
            publish(site, f"cams/{number}/image", file)
        eventually(lambda: (s := ingress_state(wire, site)) and s.counters.get("left", 0) >= 9, 20.0)
        scene.deploy(site, scene.model())
        wanted = {f"cams/{number}/boxes" for number in range(len(files))}
        eventually(lambda: wanted <= {topic for topic, _ in heard.messages}, 60.0)
        assert len(heard.messages) == len(files)
    assert running.end() == 0
