"""One site that most of these tests share: three nodes, and a pipeline `faces` that has to keep answering."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.site import Site
from tests.e2e.scene import PATIENT, STEADY, Flow, Wire, deploy, model, new_site, started

NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running mosquitto site. Tests leave it as they found it."""
    with new_site(tmp_path_factory.mktemp("site")) as running:
        started(running, NODES, coordinator=PATIENT)
        deploy(running, model(), "faces", *STEADY)
        yield running


@pytest.fixture(scope="session")
def wire(site: Site) -> Iterator[Wire]:
    """What is retained at the shared site."""
    with Wire(site) as opened:
        yield opened


@pytest.fixture
def faces(site: Site) -> Path:
    """The model that `faces` runs."""
    return model()


@pytest.fixture
def undisturbed(site: Site, faces: Path) -> Iterator[Flow]:
    """Frames flow through `faces` during the whole test and after it, bit for bit, under one revision."""
    with Flow(site, faces) as flow:
        flow.passes(5)
        yield flow
        flow.passes(20)
    assert len(flow.revisions) == 1, flow.revisions
