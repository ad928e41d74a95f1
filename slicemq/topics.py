"""Every topic of the contract, built and parsed here and nowhere else (docs/reference/protocol.md)."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from slicemq.errors import ProtocolError, UsageError

PROTOCOL_MAJOR = 1
_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_REVISION = re.compile(r"[1-9][0-9]{0,17}-[0-9a-f]{8}\Z")
RESERVED_IDS = frozenset({"request"})
# The level of `data/...` that no bundle may have as its id.
RELEASE = "release"


def is_id(text: str) -> bool:
    """Whether `text` may name a cluster, node, pipeline, client or bundle."""
    return _ID.match(text) is not None and text not in RESERVED_IDS


def check_id(kind: str, text: str) -> str:
    """Return `text`, or raise UsageError that names `kind` (`node`, `pipeline` ...) and the rule."""
    if not is_id(text):
        raise UsageError(
            f"{kind} id {text!r}: expected 1 to 64 lower-case letters, digits and hyphens, no hyphen at "
            f"either end, and not the reserved {' or '.join(map(repr, sorted(RESERVED_IDS)))}"
        )
    return text


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hex."""
    return _SHA256.match(text) is not None


def is_revision(text: str) -> bool:
    """Whether `text` is `<n>-<8 hex>` (protocol rule 1)."""
    return _REVISION.match(text) is not None


@dataclass(frozen=True)
class Topics:
    """The topics of one cluster: `slicemq/v1/<cluster>/...`."""

    cluster: str

    def __post_init__(self) -> None:
        check_id("cluster", self.cluster)

    @functools.cached_property
    def prefix(self) -> str:
        """`slicemq/v1/<cluster>`, without a slash at the end."""
        return f"slicemq/v{PROTOCOL_MAJOR}/{self.cluster}"

    def parts(self, topic: str) -> tuple[str, ...]:
        """The levels of `topic` below the prefix; raises ProtocolError when it is not below it."""
        head = self.prefix + "/"
        if not topic.startswith(head):
            raise ProtocolError(f"topic {topic!r}: expected it below {head}")
        return tuple(topic[len(head) :].split("/"))

    @property
    def coordinator(self) -> str:
        """The coordinator's retained state."""
        return f"{self.prefix}/coordinator"

    @property
    def coordinator_marker(self) -> str:
        """Where the coordinator publishes markers and beats to itself (protocol rules 20 and 23)."""
        return f"{self.prefix}/coordinator/marker"

    @property
    def mirror(self) -> str:
        """Where the coordinator says which files a standby must hold (protocol rule 22)."""
        return f"{self.prefix}/coordinator/mirror"

    def standby(self, instance: str) -> str:
        """The retained state of a standby."""
        return f"{self.prefix}/coordinator/standbys/{instance}"

    def node(self, node: str, leaf: str) -> str:
        """`nodes/<node>/<leaf>`; `leaf` is state, capacity, heartbeat, assignment or report."""
        return f"{self.prefix}/nodes/{node}/{leaf}"

    def pipeline(self, name: str) -> str:
        """The retained document of a pipeline."""
        return f"{self.prefix}/pipelines/{name}"

    def plan(self, name: str) -> str:
        """The retained plan of a pipeline."""
        return f"{self.prefix}/pipelines/{name}/plan"

    def rollout(self, name: str) -> str:
        """The retained rollout and history of a pipeline."""
        return f"{self.prefix}/pipelines/{name}/rollout"

    def request(self, client: str, verb: str) -> str:
        """Where a client asks the coordinator for `verb`."""
        return f"{self.prefix}/requests/{client}/{verb}"

    def response(self, client: str) -> str:
        """Where the coordinator answers a client."""
        return f"{self.prefix}/responses/{client}"

    def artifact_request(self, sha256: str) -> str:
        """Where a receiver asks for chunks of an artifact."""
        return f"{self.prefix}/artifacts/{sha256}/request"

    def artifact_chunks(self, sha256: str, receiver: str) -> str:
        """Where the chunks of an artifact go to one receiver."""
        return f"{self.prefix}/artifacts/{sha256}/{receiver}"

    def data(self, name: str, revision: str, bundle: str, turn: int | None = None) -> str:
        """Where the frames of one bundle of one revision go; `turn` in a revision that has several (turns.py)."""
        topic = f"{self.prefix}/data/{name}/{revision}/{bundle}"
        return topic if turn is None else f"{topic}/{turn}"

    def release(self, name: str, revision: str) -> str:
        """Where a client says that its stream of a stateful revision has ended (protocol rule 6)."""
        return self.data(name, revision, RELEASE)

    def results(self, name: str, client: str) -> str:
        """Where a client's results come."""
        return f"{self.prefix}/results/{name}/{client}"

    def ingress(self, ingress: str) -> str:
        """The retained state of an ingress (protocol rule 25)."""
        return f"{self.prefix}/ingress/{ingress}"

    def link_probe(self, owner: str) -> str:
        """Where `owner` sends itself messages to measure its link or the broker's size limit."""
        return f"{self.prefix}/probe/{owner}"
