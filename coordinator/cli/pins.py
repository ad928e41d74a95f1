"""What `slicemq node pin` and `node unpin` share: a pin is a new revision of the pipeline."""

from __future__ import annotations

import time
from typing import Any

from coordinator.cli.common import Network, Output
from slicemq.topics import check_id


def pin(
    net: Network, out: Output, pipeline: str, place: str, node: str, *, wait: bool, timeout: float
) -> dict[str, Any]:
    """Ask for `place` (a slice or a range of operators) on `node` (empty: anywhere), and wait until that runs."""
    from coordinator.cli.ask import calling
    from coordinator.cli.following import Following

    check_id("pipeline", pipeline)
    begun = time.monotonic()
    with out.progress() as progress, calling(net) as caller:
        caller.check_coordinator()
        task = progress.add_task("planning", total=None, note="")
        following = Following(caller, pipeline)
        answer = caller.ask("pin", {"pipeline": pipeline, "slice": place, "node": node}, timeout).body
        revision = str(answer.get("revision"))
        progress.update(task, description=f"revision {revision}")
        if wait:
            following.until_running(revision, timeout - (time.monotonic() - begun), progress, task)
    result = {
        "name": pipeline,
        "slice": place,
        "node": node or None,
        "revision": following.running or revision,
        "running": following.running is not None,
        "seconds": round(time.monotonic() - begun, 3),
    }
    where = f"pinned to {node}" if node else "pinned to no node"
    how = "runs" if result["running"] else "is being prepared"
    out.result(result, f"{pipeline}: {place} is {where}; revision {result['revision']} {how}")
    return result
