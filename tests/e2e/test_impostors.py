"""Others who speak on the cluster's topics: a second node with one id, and a liar who serves artifacts."""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.site import Site
from slicemq.messages import ChunkRequest, decode
from slicemq.session import Session
from slicemq.topics import Topics
from slicemq.transfer import serve
from tests.e2e.scene import ONE_TURN, Flow, Wire, deploy, model


def test_second_node_with_the_same_id(site: Site, wire: Wire, undisturbed: Flow, tmp_path: Path) -> None:
    first = site.nodes["n1"]
    try:
        words = ["--id", "n1", "--state-dir", str(tmp_path), "--threads", "1", *site.network_options()]
        second = site.run("n1-double", [sys.executable, "-m", "edge_node.main", *words])
        assert second.process.wait(30) == 71
    finally:
        site.nodes["n1"] = first
    log = second.log.read_text()
    assert "another live node in cluster e2e has the id 'n1'" in log
    assert "Traceback" not in log
    assert first.alive


class Liar:
    """Answers every request for an artifact at once, with chunks that hold together around wrong bytes."""

    def __init__(self, site: Site) -> None:
        self._topics = Topics(site.cluster)
        self.told = 0
        self._sizes: dict[str, int] = {}
        self.session = Session(site.options, f"liar-{secrets.token_hex(4)}", on_message=self._on_message)

    def __enter__(self) -> Liar:
        self.session.subscribe(f"{self._topics.prefix}/artifacts/#")
        self.session.start()
        self.session.wait_up(10.0)
        return self

    def __exit__(self, *exc: object) -> None:
        self.session.stop()

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        sha256, leaf = self._topics.parts(topic)[1:]
        if leaf != "request":
            # The size stands in the true chunks.
            self._sizes[sha256] = int.from_bytes(payload[16:24], "big")
            return
        request = decode(ChunkRequest, payload, topic)
        size = self._sizes.get(sha256, 100_000)
        for chunk in serve(request, size, lambda offset, count: bytes(count)):
            self.session.publish(self._topics.artifact_chunks(sha256, request.receiver), chunk, qos=0)
            self.told += 1


@pytest.fixture
def liar(site: Site) -> Iterator[Liar]:
    with Liar(site) as running:
        yield running


@pytest.mark.slow
def test_wrong_artifacts_are_never_loaded(
    site: Site, wire: Wire, undisturbed: Flow, liar: Liar, tmp_path: Path
) -> None:
    file = tmp_path / "again.tflite"
    file.write_bytes(model("face-back").read_bytes())
    done = site.command("deploy", str(file), "--name", "again", *ONE_TURN, "--timeout", "20")
    assert liar.told > 0
    if done.returncode != 0:
        # The liar was always faster. The reason names the artifact, and nothing of it is kept.
        assert "SHA-256" in done.stderr or "hash" in done.stderr, done.stderr
        liar.session.stop()
        deploy(site, file, "again", *ONE_TURN)
    with Flow(site, file, name="again") as flow:
        flow.passes(10)
    site.json("undeploy", "again")
    for folder in site.folder.glob("*/artifacts"):
        for kept in folder.iterdir():
            if kept.suffix == "":
                assert hashlib.sha256(kept.read_bytes()).hexdigest() == kept.name
