"""Files that come into the cache before they are needed: one at a time, at a bounded rate, in idle time. PURE.

The fetcher carries it out. What cannot be had is tried again later, longer each time, and said to nobody.
"""

from __future__ import annotations

from slicemq.messages import Artifact, ChunkRequest
from slicemq.transfer import CHUNK_BYTES, WINDOW_CHUNKS, Download

FIRST_PAUSE = 30.0
LONGEST_PAUSE = 1800.0
_LEAST_CHUNK = 4096


class Ahead:
    """Which file comes next, and when the next part of it is asked for; times are monotonic seconds."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._wanted: tuple[Artifact, ...] = ()
        self._rate = 0.0
        self._pauses: dict[str, tuple[float, float]] = {}
        self._download: Download | None = None
        # The request that waits until the rate allows it, and since when the link may be used again.
        self._held: ChunkRequest | None = None
        self._free_at = 0.0

    @property
    def sha256(self) -> str | None:
        """The file that is coming."""
        return self._download.artifact.sha256 if self._download is not None else None

    @property
    def artifact(self) -> Artifact | None:
        """The same with its size."""
        return self._download.artifact if self._download is not None else None

    def wait(self, now: float) -> float | None:
        """Seconds until there is something to do; None: nothing is wanted."""
        if self._download is not None:
            return max(0.0, self._free_at - now) if self._held is not None else 1.0
        times = [max(0.0, self._pauses.get(one.sha256, (now, 0.0))[0] - now) for one in self._wanted]
        return min(times, default=None)

    def want(self, artifacts: tuple[Artifact, ...], rate: float) -> None:
        """These files, in this order, in place of the earlier ones; `rate` in bytes per second (0: no limit)."""
        self._wanted, self._rate = artifacts, rate
        hashes = {one.sha256 for one in artifacts}
        self._pauses = {sha256: pause for sha256, pause in self._pauses.items() if sha256 in hashes}
        if self.sha256 not in hashes:
            self.give_up()

    def give_up(self) -> None:
        """Something more urgent is fetched; what has come of the file stays in the cache."""
        self._download = self._held = None

    def next(self, now: float) -> tuple[Artifact, ...]:
        """The files to try, in order, when none is coming."""
        if self._download is not None:
            return ()
        return tuple(one for one in self._wanted if now >= self._pauses.get(one.sha256, (now, 0.0))[0])

    def begin(self, artifact: Artifact, transaction: str, offset: int) -> None:
        """Fetch this one, of which `offset` bytes are there."""
        chunk = CHUNK_BYTES if self._rate <= 0 else max(_LEAST_CHUNK, min(CHUNK_BYTES, int(self._rate)))
        window = WINDOW_CHUNKS if self._rate <= 0 else 1
        self._download = Download(
            artifact,
            receiver=self._node,
            transaction=transaction,
            offset=offset,
            chunk=chunk,
            window=window,
            retry=5.0,
        )

    def has(self, sha256: str) -> None:
        """A file is in the cache: it is not wanted any more."""
        self._wanted = tuple(one for one in self._wanted if one.sha256 != sha256)
        self._pauses.pop(sha256, None)
        if self.sha256 == sha256:
            self.give_up()

    def failed(self, sha256: str, now: float) -> None:
        """A file cannot be had for now."""
        pause = min(LONGEST_PAUSE, 2 * self._pauses.get(sha256, (0.0, FIRST_PAUSE / 2))[1])
        self._pauses[sha256] = (now + pause, pause)
        if self.sha256 == sha256:
            self.give_up()

    def poll(self, now: float) -> ChunkRequest | None:
        """What to ask for now. Raises ArtifactError when nobody has sent anything for long."""
        if self._download is None or now < self._free_at:
            return None
        if self._held is not None:
            request, self._held = self._held, None
            return request
        return self._download.poll(now)

    def receive(self, now: float, payload: bytes) -> tuple[int, bytes]:
        """(offset, bytes) to write to the file that is coming. Raises ArtifactError for a wrong chunk."""
        if self._download is None:
            return 0, b""
        offset = self._download.offset
        data, request = self._download.receive(now, payload)
        if data and self._rate > 0:
            self._free_at = max(now, self._free_at) + len(data) / self._rate
        if request is not None:
            self._held = request
        return offset, data

    @property
    def done(self) -> bool:
        """Whether the file that is coming has come."""
        return self._download is not None and self._download.done
