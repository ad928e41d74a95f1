"""A coordinator that hangs is called silent, and nobody waits long for it."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.e2e.scene import failing, new_site


def test_a_coordinator_that_hangs_is_called_silent(tmp_path: Path) -> None:
    with new_site(tmp_path) as site:
        coordinator = site.start_coordinator()
        site.wait_ready([])
        assert site.json("status")["coordinator"]["state"] == "ready"
        coordinator.signal(signal.SIGSTOP)
        assert site.json("status")["coordinator"]["state"] == "silent"
        assert "it is silent" in failing(site, 40, "undeploy", "faces")
        coordinator.signal(signal.SIGCONT)
        assert "no pipeline is called" in failing(site, 61, "undeploy", "faces")
