"""What the active coordinator keeps ready for standbys, and what a standby's folder holds (rules 15, 22 and 24)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from coordinator import mirroring
from coordinator.adoption import adopt_running, catch_up, note_numbers, numbers_seen
from coordinator.artifacts import ArtifactStore
from coordinator.intents import PipelineRecord, Wish
from coordinator.mirroring import DEBOUNCE, SHOWN, Mirroring, keep_mirror, kept_mirror, prune_mirrored
from coordinator.rehearsal import intents_of
from coordinator.rollout import Rollout
from coordinator.store import Store
from slicemq.errors import ProtocolError, StoreError
from slicemq.messages import Artifact, Stamp, decode, encode
from slicemq.operations import Mirror, StandbyState
from tests.coordinator.site import TOPICS, Board, Site, intent
from tests.coordinator.test_adoption import REVISION, retained
from tests.coordinator.test_store import record

INSTANCE = "5" * 16


class Scene:
    """A folder with a store, and what is published."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.store.save(3, [record()])
        self.artifacts = ArtifactStore(folder / "artifacts")
        self.file = self.artifacts.put(b"a slice")
        self.published: list[Mirror] = []
        self.cleared: list[str] = []
        self.counter = 0
        self.mirroring = Mirroring(folder, self.artifacts, TOPICS, self._own, self.cleared.append)

    def _own(self, topic: str, payload: bytes) -> None:
        assert topic == TOPICS.mirror
        self.published.append(decode(Mirror, payload, topic))

    def stamp(self) -> Stamp:
        self.counter += 1
        return Stamp(3, "a" * 16, self.counter)

    def tick(self, now: float) -> None:
        self.mirroring.tick(now, lambda: {self.file.sha256, "0" * 64}, self.stamp)

    def standby(self, now: float, state: str = "mirroring", instance: str = INSTANCE) -> None:
        document = StandbyState(instance, state)  # type: ignore[arg-type]
        self.mirroring.on_standby(now, TOPICS.standby(instance), encode(document))


def test_nothing_is_mirrored_while_there_is_no_standby(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.mirroring.changed(0.0)
    scene.tick(10.0)
    assert scene.published == []
    assert scene.mirroring.keep == set()


def test_a_standby_is_told_the_store_and_all_files_that_are_here(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.standby(0.0)
    scene.tick(DEBOUNCE / 2)
    assert scene.published == []
    scene.tick(DEBOUNCE)
    (mirror,) = scene.published
    assert mirror.files == (scene.file,)
    content = scene.store.content()
    assert content is not None
    assert mirror.store == Artifact(hashlib.sha256(content).hexdigest(), len(content))
    assert scene.artifacts.read(mirror.store.sha256, 0, 10**6) == content
    assert scene.mirroring.keep == {mirror.store.sha256}


def test_changes_are_gathered_and_only_the_latest_store_stays(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.standby(0.0)
    scene.tick(1.0)
    for term in (4, 5):
        scene.store.save(term, [record()])
        scene.mirroring.changed(2.0)
    scene.tick(2.0 + DEBOUNCE)
    assert len(scene.published) == 2
    first, second = scene.published
    assert second.stamp > first.stamp
    assert scene.artifacts.size(first.store.sha256) is None
    assert scene.artifacts.size(second.store.sha256) == second.store.size
    # The same once more is no news.
    scene.mirroring.changed(5.0)
    scene.tick(6.0)
    assert len(scene.published) == 2


def test_rule_15_what_an_ended_standby_said_is_cleared_after_a_while(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for instance, state in ((INSTANCE, "lost"), ("6" * 16, "disconnected"), ("7" * 16, "lost")):
        scene.standby(0.0, "ready", instance)
        scene.standby(1.0, state, instance)
    scene.standby(2.0, "ready", "7" * 16)
    scene.tick(1.0 + SHOWN)
    assert scene.cleared == []
    scene.tick(1.1 + SHOWN)
    assert scene.cleared == [TOPICS.standby(INSTANCE), TOPICS.standby("6" * 16)]


@pytest.mark.parametrize("payload", [b"{", b"[]", encode(StandbyState("6" * 16, "ready"))])
def test_a_wrong_document_of_a_standby_is_refused(tmp_path: Path, payload: bytes) -> None:
    scene = Scene(tmp_path)
    with pytest.raises(ProtocolError, match=INSTANCE):
        scene.mirroring.on_standby(0.0, TOPICS.standby(INSTANCE), payload)
    scene.tick(10.0)
    assert scene.published == []


def test_rule_22_a_folder_holds_a_mirror_with_its_very_store_and_all_files_only(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert kept_mirror(tmp_path, scene.artifacts) is None
    scene.standby(0.0)
    scene.tick(1.0)
    (mirror,) = scene.published
    assert kept_mirror(tmp_path, scene.artifacts) == mirror
    scene.store.save(9, [])
    assert kept_mirror(tmp_path, scene.artifacts) is None
    scene.store.save(3, [record()])
    assert kept_mirror(tmp_path, scene.artifacts) == mirror
    scene.artifacts.path(scene.file.sha256).write_bytes(b"a slicx")
    assert kept_mirror(tmp_path, scene.artifacts) is None
    (tmp_path / "mirror.json").write_bytes(b"{")
    assert kept_mirror(tmp_path, scene.artifacts) is None


def test_a_store_is_installed_whole_or_not_at_all(tmp_path: Path) -> None:
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    ours.save(1, [])
    theirs.save(7, [record()])
    content = theirs.content()
    assert content is not None
    for wrong in (b"", b"[]", content[:-1], b"[" * 100_000):
        with pytest.raises(StoreError, match="not a store"):
            ours.install(wrong)
    assert ours.load(0.0).term == 1
    ours.install(content)
    assert ours.load(0.0) == theirs.load(0.0)
    assert [one.name for one in intents_of(tmp_path / "ours")] == ["faces"]
    assert intents_of(tmp_path / "nowhere") == ()


def test_keeping_a_mirror_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"mirror.json: No such file"):
        keep_mirror(tmp_path / "nowhere", Mirror(Stamp(1, "a", 1), Artifact("a" * 64, 1)))


def test_what_could_not_be_kept_is_told_when_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path)
    scene.standby(0.0)

    def full(folder: Path, mirror: Mirror) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(mirroring, "keep_mirror", full)
        scene.tick(DEBOUNCE)
        assert scene.published == []
    scene.tick(DEBOUNCE + 10.0)
    assert len(scene.published) == 1


def test_a_standby_keeps_no_files_of_rollouts_that_are_over(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts")
    store, kept, over, fresh = (artifacts.put(data) for data in (b"store", b"kept", b"over", b"fresh"))
    for old in (store, kept, over):
        os.utime(artifacts.path(old.sha256), (1.0, 1.0))
    assert prune_mirrored(artifacts, Mirror(Stamp(3, "a" * 16, 1), store, (kept,))) == [over.sha256]
    assert all(artifacts.holds(one) for one in (store, kept, fresh))


# -- a store that is older than the retained topics ----------------------------------------------------------------


def test_rule_1_numbers_that_stand_in_any_document_are_not_used_again() -> None:
    assert numbers_seen(TOPICS, retained()) == {"faces": 6}
    documents = {t: p for t, p in retained().items() if "assignment" in t}
    assert numbers_seen(TOPICS, documents) == {"faces": 6}
    assert numbers_seen(TOPICS, {**documents, TOPICS.pipeline("faces"): b"{"}) == {"faces": 6}


def seen() -> PipelineRecord:
    (found,) = adopt_running(TOPICS, retained(), 0.0)
    return found


def test_what_clients_send_to_stays_active_though_the_store_does_not_know_it() -> None:
    """A standby may lack the last moments of the coordinator before it."""
    wanted = intent()
    stored = PipelineRecord("faces", wanted, highest=5, wish=Wish(wanted, None))
    assert catch_up(stored, seen(), 1e9)
    assert stored.active is not None
    assert stored.active.id == REVISION
    assert stored.intent == wanted
    assert stored.wish is None
    assert stored.removed_at is None


def test_the_revision_before_it_drains() -> None:
    stored = seen()
    old = stored.revisions.pop(REVISION)
    old.id = "5-0123abcd"
    stored.revisions[old.id], stored.highest = old, 5
    assert catch_up(stored, seen(), 1e9)
    assert {revision.id: revision.phase for revision in stored.revisions.values()} == {
        "5-0123abcd": "draining",
        REVISION: "active",
    }


def test_a_store_that_is_as_new_is_left_as_it_is() -> None:
    stored = seen()
    assert not catch_up(stored, seen(), 1e9)
    newer = PipelineRecord("faces", intent(), highest=7)
    assert not catch_up(newer, seen(), 1e9)
    assert newer.revisions == {}


def test_a_flip_that_the_store_only_saw_prepare_is_not_taken_back() -> None:
    """A number is stored when its revision begins to prepare, and mirrored long before the flip."""
    old, before, wanted = seen(), intent(model="m0"), intent()
    active = old.revisions.pop(REVISION)
    active.id, active.intent = "5-0123abcd", before
    stored = PipelineRecord("faces", before, highest=6, revisions={active.id: active}, face=active.blueprint)
    stored.wish, stored.rollout = Wish(wanted, None), Rollout(wanted, 1e9)
    assert catch_up(stored, seen(), 1e9 + 5.0)
    assert {one.id: one.phase for one in stored.revisions.values()} == {
        "5-0123abcd": "draining",
        REVISION: "active",
    }
    assert stored.intent == wanted
    assert [stored.wish, stored.rollout] == [None, None]
    assert [(one.revision, one.state, one.ended) for one in stored.history] == [(REVISION, "promoted", 1e9 + 5.0)]


def test_what_was_undeployed_does_not_come_back_with_old_documents() -> None:
    stored = PipelineRecord("faces", highest=6, removed_at=0.0)
    assert not catch_up(stored, seen(), 1e9)
    assert stored.revisions == {}


def test_rule_1_numbers_of_a_pipeline_that_the_store_does_not_know_are_not_used_again() -> None:
    """It began to prepare in the last moments of the coordinator before, and may be deployed again."""
    documents = {t: p for t, p in retained().items() if "assignment" in t}
    site = Site(Board("pi-1"), Board("pi-2"))
    note_numbers(site.cluster.records, TOPICS, documents, site.now)
    site.start()
    assert site.run("pi-1", "pi-2").startswith("7-")
