"""The examples of docs/how-to/use-the-client.md run as they stand, against a pipeline that doubles its input."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from emulator.brokers import Broker
from slicemq.client import Pipeline
from tests.contract.echo_node import NAME, R1, EchoNode, Master, route

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_has_its_examples() -> None:
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(
    number: int,
    mosquitto: Broker,
    cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "camera.password").write_text("secret\n")
    (tmp_path / "camera.password").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    node, master = EchoNode(mosquitto, cluster, R1), Master(mosquitto, cluster)
    master.publish(route(R1))
    # Only the names of the site are exchanged: pipeline, broker, cluster.
    code = re.sub('"(faces|wake-word)"', f'"{NAME}"', EXAMPLES[number]).replace(
        "mqtt://broker.local", mosquitto.url
    )
    code = code.replace(f'"{mosquitto.url}"', f'"{mosquitto.url}", cluster="{cluster}"', code.count("Pipeline("))
    code = code.replace(f'"{mosquitto.url}", cluster="{cluster}", username', f'"{mosquitto.url}", username')
    code = code.replace('cluster="default"', f'cluster="{cluster}"')
    images = [np.full((1, 2), n, np.float32) for n in range(6)]
    try:
        names = {"image": images[0], "images": images, "camera": images, "microphone": images}
        exec(compile(code, str(PAGE), "exec"), names)
    finally:
        node.stop()
        master.stop()
    printed = capsys.readouterr().out
    assert node.got
    assert printed or "failovers" in code or "raise_errors" in code


def test_every_member_of_pipeline_is_in_the_reference() -> None:
    reference = (PAGE.parents[1] / "reference" / "client.md").read_text()
    for member in vars(Pipeline):
        if not member.startswith("_") and member not in ("name", "client_id"):
            assert f"`{member}" in reference, member
