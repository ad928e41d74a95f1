"""Full disks: what was there stays, the reason is said, and it goes on when there is room again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.scene import Flow, Wire, deploy, failing, model, new_site, started
from tests.waiting import eventually, never

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root"),
]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of `size` at `folder`; gives the file that fills it."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder / "ballast"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Write until nothing fits any more."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def test_coordinators_disk(tmp_path: Path) -> None:
    file = model()
    with (
        small_disk(tmp_path / "coordinator", "4m") as ballast,
        new_site(tmp_path) as site,
        Wire(started(site, ["n1", "n2", "n3"])) as wire,
    ):
        fill(ballast)
        text = failing(site, 72, "deploy", str(file), "--name", "faces")
        assert "No space left" in text
        ballast.unlink()
        deploy(site, file)
        with Flow(site, file) as flow:
            flow.passes()
            fill(ballast)
            site.nodes[wire.nodes()[0]].signal(signal.SIGKILL)
            # It stores before it publishes (rule 24): while it cannot store, it decides nothing.
            assert site.coordinator is not None
            log = site.coordinator.log
            eventually(lambda: "No space left" in log.read_text(), 20.0)
            never(lambda: len(flow.revisions) > 1)
            ballast.unlink()
            flow.moves_on()
            flow.passes()
        assert site.coordinator.alive


def test_nodes_disk(tmp_path: Path) -> None:
    file = model()
    with (
        small_disk(tmp_path / "n1", "2m") as ballast,
        new_site(tmp_path) as site,
        Wire(started(site, ["n1"])) as wire,
    ):
        fill(ballast)
        text = failing(site, 40, "deploy", str(file), "--name", "faces", "--timeout", "6")
        assert "the disk is full" in text
        assert wire.state() == "paused"
        ballast.unlink()
        eventually(lambda: wire.state() == "running", 30.0)
        with Flow(site, file) as flow:
            flow.passes()
