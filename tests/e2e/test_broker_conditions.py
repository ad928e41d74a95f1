"""Brokers that refuse: no broker, no coordinator, passwords, and messages that are too large."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emulator.brokers import Mosquitto, free_port
from emulator.site import Site
from slicemq.client import Pipeline
from slicemq.errors import BrokerRefusedError
from slicemq.options import BrokerOptions
from tests.e2e.scene import (
    answers,
    command,
    failing,
    inputs,
    json_of,
    model,
    new_site,
    output_bytes,
    refused,
    start_node,
)
from tests.waiting import eventually


@pytest.mark.slow
def test_no_broker() -> None:
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    verbs = (["status"], ["node", "list"], ["deploy", str(model()), "--name", "x"], ["bench", "x"])
    # At once: each tries for 10 s.
    with ThreadPoolExecutor(len(verbs)) as pool:
        for done in pool.map(lambda words: command(*words, "--broker", url), verbs):
            text = refused(done, 30)
            assert url in text
            assert "refused" in text.lower()


def test_no_coordinator() -> None:
    with Mosquitto() as broker:
        for words in (["deploy", str(model()), "--name", "x"], ["undeploy", "x"]):
            text = refused(command(*words, "--broker", broker.url), 40)
            assert "no coordinator in cluster default" in text
        assert json_of(command("status", "--format", "json", "--broker", broker.url))["coordinator"] is None
        assert "there are none" in refused(command("bench", "x", "--broker", broker.url), 61)


@pytest.mark.slow
def test_password(tmp_path: Path) -> None:
    known, wrong = tmp_path / "password", tmp_path / "wrong"
    known.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    for secret in (known, wrong):
        secret.chmod(0o600)
    users = tmp_path / "users"
    users.touch(0o600)
    made = subprocess.run(["mosquitto_passwd", "-b", str(users), "ann", "correct horse"], check=False)
    if made.returncode != 0:
        pytest.skip("mosquitto_passwd does not work here")
    right, false = (["--username", "ann", "--password-file", str(file)] for file in (known, wrong))
    site = new_site(tmp_path / "site")
    site.broker = Mosquitto(
        replace={"allow_anonymous true": "allow_anonymous false"}, extra=[f"password_file {users}"]
    )
    with site:
        site.start_coordinator(*right)
        start_node(site, "n1", *right)
        status = ("status", "--format", "json", *right)
        eventually(lambda: ready(site, status), 30.0, every=0.3)
        done = site.command("deploy", str(model()), "--name", "faces", *right)
        assert done.returncode == 0, done.stderr
        options = BrokerOptions.from_url(site.broker.url, username="ann", password_file=str(known))
        with Pipeline("faces", options, cluster=site.cluster) as pipeline:
            assert output_bytes(pipeline.infer(inputs(model())[0], timeout=30.0)) == answers(model())[0]
        for given in ([], false):
            assert "not authorised" in failing(site, 31, "status", *given).lower().replace(
                "authorized", "authorised"
            )
        with pytest.raises(BrokerRefusedError), Pipeline("faces", site.options, cluster=site.cluster):
            pass
        start_node(site, "n2", *false)
        assert site.nodes["n2"].process.wait(20) == 31
        assert "battery" not in site.nodes["n2"].log.read_text()
        assert failing(site, 3, "status", "--username", "ann", "--password-file", str(tmp_path / "absent"))


def ready(site: Site, status: tuple[str, ...]) -> bool:
    body = json_of(site.command(*status))
    return (body["coordinator"] or {}).get("state") == "ready" and any(
        row["state"] == "ready" for row in body["nodes"]
    )


@pytest.mark.slow
def test_frame_larger_than_the_brokers_limit(tmp_path: Path) -> None:
    site = new_site(tmp_path)
    # Chunks of artifacts (128 kB) pass, the input picture (196,608 bytes) does not.
    site.broker = Mosquitto(replace={"message_size_limit 67108864": "message_size_limit 150000"})
    with site:
        site.start_coordinator()
        start_node(site, "n1")
        site.wait_ready(["n1"])
        text = failing(site, 32, "deploy", str(model()), "--name", "faces")
        assert "message_size_limit" in text
        assert "19" in text
        assert deploy_status(site) == []


def deploy_status(site: Site) -> list[str]:
    return [row["name"] for row in site.json("status")["pipelines"]]
