"""`slicemq node drain NODE`: move all slices off a node."""

from __future__ import annotations

import threading
import time

import typer

from coordinator.cli.common import Network, Output, verb


@verb
def command(
    net: Network,
    out: Output,
    node: str = typer.Argument(..., help="The node."),
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Wait until it holds no slice."),
    timeout: float = typer.Option(600.0, "--timeout", min=1.0, help="Seconds to wait at most."),
) -> None:
    """Move all slices off a node, without losing a frame, and give it none until `node undrain`."""
    from coordinator.cli.ask import calling
    from coordinator.cli.drained import Drained
    from slicemq.errors import CoordinatorError
    from slicemq.topics import check_id

    check_id("node", node)
    begun = time.monotonic()
    with out.progress() as progress, calling(net) as caller:
        task = progress.add_task(f"draining {node}", total=None, note="")
        caller.check_coordinator()
        changed = threading.Condition()
        drained = Drained(node)

        def take(topic: str, payload: bytes) -> None:
            with changed:
                drained.take(topic.rpartition("/")[2], topic, payload)
                changed.notify_all()

        if wait:
            for leaf in Drained.LEAVES:
                caller.on(net.topics.node(node, leaf), take)
        caller.ask("drain", {"node": node}, timeout)
        if wait:
            # What was retained before the answer says nothing: read it anew behind it.
            for topic, payload in caller.session.snapshot(
                *(net.topics.node(node, leaf) for leaf in Drained.LEAVES)
            ).items():
                take(topic, payload)
        while wait:
            with changed:
                if drained.done:
                    break
                changed.wait(0.5)
                left = drained.left
            caller.check_coordinator()
            progress.update(task, note=", ".join(left) + (f": {drained.why}" if drained.why else ""))
            if time.monotonic() - begun > timeout:
                raise CoordinatorError(
                    f"node {node} still holds {', '.join(left) or 'slices'} after {timeout:.0f} s"
                    + (f": {drained.why}" if drained.why else "")
                    + "; it stays draining"
                )
    seconds = round(time.monotonic() - begun, 3)
    state = "drained" if wait else "draining"
    text = f"{node}: {state} ({seconds:.1f} s); 'slicemq node undrain {node}' takes it back"
    out.result({"node": node, "state": state, "seconds": seconds}, text)
