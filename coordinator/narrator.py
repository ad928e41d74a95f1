"""What changed in the cluster, in words for the log. PURE."""

from __future__ import annotations

from coordinator.cluster import Cluster


class Narrator:
    """Remembers what it has told: each call of `lines` gives only what is new."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._revisions: dict[tuple[str, str], str] = {}
        self._status: dict[str, str] = {}

    def lines(self, cluster: Cluster) -> list[str]:
        """One line for each node, revision or pipeline whose state has changed."""
        told = []
        # A node of which only retained documents are known is no news.
        nodes = {name: node.state for name, node in cluster.members.nodes.items() if node.last_epoch is not None}
        for name, state in nodes.items():
            if self._nodes.get(name) != state:
                told.append(f"node {name}: {state}")
        self._nodes = nodes
        revisions: dict[tuple[str, str], str] = {
            (record.name, revision.id): revision.phase
            for record in cluster.records.values()
            for revision in record.revisions.values()
        }
        for (pipeline, revision_id), phase in revisions.items():
            if self._revisions.get((pipeline, revision_id)) != phase:
                lost = cluster.records[pipeline].revisions[revision_id].prepared_for
                is_new = (pipeline, revision_id) not in self._revisions
                origin = f", by the plan made ahead for the loss of node {lost}" if lost and is_new else ""
                told.append(f"pipeline {pipeline}: revision {revision_id} {phase}{origin}")
        told += [
            f"pipeline {name}: revision {revision_id} ended"
            for name, revision_id in self._revisions.keys() - revisions.keys()
        ]
        self._revisions = revisions
        status = {record.name: record.status for record in cluster.records.values() if record.status}
        told += [f"pipeline {name}: {text}" for name, text in status.items() if text != self._status.get(name)]
        self._status = status
        return told
