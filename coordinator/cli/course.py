"""What becomes of a deployment, as the pipeline's retained documents tell it. PURE: documents in, verdicts out."""

from __future__ import annotations

from coordinator.cli.rollouts import under_way
from slicemq.errors import CoordinatorError, PipelineError, RequestRefusedError, RolledBackError, SupersededError
from slicemq.messages import PipelineDocument
from slicemq.operations import RolloutDocument, RolloutEntry

# A slice that fails on one node may run on another; after so many failures an operator wants to know.
_ENOUGH_FAILURES = 3


class Course:
    """The way of one asked-for revision to its end; a later revision of the same model stands for it.

    `running` is the revision that runs in the end, `note` what to show meanwhile. model: SHA-256 of what was
    deployed (None: whatever the revision is of).
    """

    def __init__(self, name: str, revision: str, model: str | None = None) -> None:
        self.name = name
        self.revision = revision
        self.running: str | None = None
        self.note = ""
        self._model = model
        self._number = _number(revision)
        self._shown = ""
        self._began = False
        self._trouble = ""
        self._abandoned: set[str] = set()

    def settled(self, pipeline: PipelineDocument | None, rollouts: RolloutDocument | None) -> bool:
        """Whether it runs, by the newest documents.

        Raises RolledBackError, SupersededError or RequestRefusedError with the reason when its rollout ended so,
        PipelineError when the pipeline was removed, CoordinatorError when its slices failed too often.
        """
        entry = self._entry(rollouts)
        if entry is not None:
            self._judge(entry)
        if pipeline is not None:
            active = [route.revision for route in pipeline.routes if route.state == "active"]
            later = [revision for revision in active if _number(revision) >= self._number]
            same = self._model is None or pipeline.model == self._model
            alone = len(active) == 1 and bool(later) and same
            if alone and not under_way(entry):
                self.running = later[0]
        if self.running is not None:
            return True
        if pipeline is not None:
            self._follow(pipeline)
        self.note = ": ".join(filter(None, [_progress(entry), self._shown]))
        return False

    @property
    def why_not(self) -> str:
        """What it waits for, for the message that it took too long."""
        return (self.note or "no reason given") + ("" if "was abandoned" in self._shown else self._trouble)

    def _entry(self, rollouts: RolloutDocument | None) -> RolloutEntry | None:
        if rollouts is None:
            return None
        newest_first = [*([rollouts.current] if rollouts.current is not None else []), *reversed(rollouts.history)]
        for entry in newest_first:
            if entry.revision == self.revision:
                return entry
        for entry in newest_first:
            later = entry.revision and _number(entry.revision) > self._number
            if later and entry.model.sha256 == self._model:
                return entry
        return None

    def _judge(self, entry: RolloutEntry) -> None:
        reason = entry.reason or "no reason given"
        what = f"pipeline {self.name}: revision {entry.revision}"
        stays = f"; {entry.before} serves on" if entry.before else ""
        if entry.state == "rolled-back":
            raise RolledBackError(f"{what} was rolled back: {reason}{stays}")
        if entry.state == "superseded":
            raise SupersededError(f"{what} was superseded: {reason}")
        if entry.state == "refused":
            raise RequestRefusedError(f"{what} was refused: {reason}{stays}")
        if entry.state == "promoted":
            self.running = entry.revision

    def _follow(self, document: PipelineDocument) -> None:
        # At first the document may be that of an earlier pipeline of this name.
        self._began = self._began or document.state != "removed"
        if self._began and document.state == "removed":
            raise PipelineError(f"pipeline {self.name} was undeployed meanwhile")
        if document.reason == self._shown:
            return
        self._shown = document.reason
        if "was abandoned" in document.reason:
            self._trouble = f", after {document.reason}"
        if "was abandoned: slice" in document.reason:
            self._abandoned.add(document.reason.split()[0])
        if len(self._abandoned) >= _ENOUGH_FAILURES:
            raise CoordinatorError(
                f"pipeline {self.name} does not run: {document.reason}. The coordinator tries on, more and more "
                f"seldom; 'slicemq undeploy {self.name}' ends that"
            )


def _progress(entry: RolloutEntry | None) -> str:
    if entry is None or not under_way(entry):
        return ""
    share = f" at {100 * entry.fraction:g} % of the frames" if entry.fraction else ""
    return entry.state + share + (", paused" if entry.paused else "")


def _number(revision: str) -> int:
    head = revision.partition("-")[0]
    return int(head) if head.isdigit() else 0
