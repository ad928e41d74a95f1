"""What becomes of a deployment, as the pipeline's retained documents tell it. PURE: documents in, verdicts out."""

from __future__ import annotations

from coordinator.cli.rollouts import under_way
from slicemq.errors import CoordinatorError, PipelineError, RequestRefusedError, RolledBackError, SupersededError
from slicemq.messages import PipelineDocument
from slicemq.operations import RolloutDocument, RolloutEntry

# A slice that fails on one node may run on another; after so many failures an operator wants to know.
_ENOUGH_FAILURES = 3


class Course:
    """The way of one asked-for revision to its end; a later revision of the same rollout stands for it.

    `running` is the revision that runs in the end, `note` what to show meanwhile. Make it before the request, and
    hand it every document of rollouts, so that it knows the rollout again when that is prepared anew.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.running: str | None = None
        self.note = ""
        self._revision = ""
        self._model: str | None = None
        self._number = 0
        # A rollout keeps the moment at which it began; its revision changes when a node is lost meanwhile.
        self._begun: dict[str, float] = {}
        self._rollouts: RolloutDocument | None = None
        self._shown = ""
        self._began = False
        self._trouble = ""
        self._abandoned: set[str] = set()

    def expect(self, revision: str, model: str | None = None) -> None:
        """What the coordinator answered. model: SHA-256 of what was deployed (None: whatever it is of)."""
        self._revision, self._model, self._number = revision, model, _number(revision)

    def saw(self, rollouts: RolloutDocument | None) -> None:
        """A document of the pipeline's rollouts; None: it was cleared."""
        self._rollouts = rollouts
        if rollouts is not None:
            for entry in _newest_first(rollouts):
                if entry.revision:
                    self._begun[entry.revision] = entry.begun

    def settled(self, pipeline: PipelineDocument | None) -> bool:
        """Whether it runs, by the pipeline's newest document and what was seen of its rollouts.

        Raises RolledBackError, SupersededError or RequestRefusedError with the reason when its rollout ended so,
        PipelineError when the pipeline was removed, CoordinatorError when its slices failed too often.
        """
        entry = self._entry()
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

    def _entry(self) -> RolloutEntry | None:
        begun = self._begun.get(self._revision)
        if self._rollouts is None or begun is None:
            return None
        return next((entry for entry in _newest_first(self._rollouts) if entry.begun == begun), None)

    def _judge(self, entry: RolloutEntry) -> None:
        reason = entry.reason or "no reason given"
        what = f"pipeline {self.name}: revision {entry.revision or self._revision}"
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


def _newest_first(rollouts: RolloutDocument) -> list[RolloutEntry]:
    return [*([rollouts.current] if rollouts.current is not None else []), *reversed(rollouts.history)]


def _progress(entry: RolloutEntry | None) -> str:
    if entry is None or not under_way(entry):
        return ""
    share = f" at {100 * entry.fraction:g} % of the frames" if entry.fraction else ""
    return entry.state + share + (", paused" if entry.paused else "")


def _number(revision: str) -> int:
    head = revision.partition("-")[0]
    return int(head) if head.isdigit() else 0
